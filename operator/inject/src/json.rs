//! Reading and changing raw JSON. `null` is as good as absent: other programs write it for what they
//! leave out.

use serde_json::{Map, Value};

/// The object there.
pub(super) fn object<'a>(parent: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    parent.get(key).and_then(Value::as_object)
}

/// The elements there; none when there is no list.
pub(super) fn list<'a>(parent: &'a Value, key: &str) -> &'a [Value] {
    parent
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The text there.
pub(super) fn text<'a>(parent: &'a Value, key: &str) -> Option<&'a str> {
    parent.get(key).and_then(Value::as_str)
}

/// Whether something is there.
pub(super) fn has(parent: &Value, key: &str) -> bool {
    parent.get(key).is_some_and(|it| !it.is_null())
}

/// The object there, made when there is none. What else stands there was refused before.
pub(super) fn object_mut<'a>(parent: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let parent = parent.as_object_mut().expect("checked to be an object");
    let slot = parent.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("checked to be an object")
}

/// The list there, made when there is none. What else stands there was refused before.
pub(super) fn list_mut<'a>(parent: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    let parent = parent.as_object_mut().expect("checked to be an object");
    let slot = parent.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().expect("checked to be a list")
}

/// Puts `value` there; removes the key for `null`.
pub(super) fn set(parent: &mut Value, key: &str, value: Value) {
    let parent = parent.as_object_mut().expect("checked to be an object");
    if value.is_null() {
        parent.shift_remove(key);
    } else {
        parent.insert(key.to_owned(), value);
    }
}

/// Removes a list or object that has become empty.
pub(super) fn prune(parent: &mut Value, key: &str) {
    let empty = match parent.get(key) {
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(object)) => object.is_empty(),
        _ => false,
    };
    if empty {
        set(parent, key, Value::Null);
    }
}

/// The element of this name in a list of objects.
pub(super) fn named<'a>(list: &'a [Value], name: &str) -> Option<&'a Value> {
    list.iter().find(|it| text(it, "name") == Some(name))
}

/// As [`named`], to change it.
pub(super) fn named_mut<'a>(list: &'a mut [Value], name: &str) -> Option<&'a mut Value> {
    list.iter_mut().find(|it| text(it, "name") == Some(name))
}
