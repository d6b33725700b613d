//! A document as the API server gets it: YAML is sent to it as JSON. Keys are text there, and what JSON has
//! no word for cannot be sent.

use serde_json::{Map, Value};
use serde_yaml::Value as Yaml;

use super::ManifestError;

/// The JSON of a document.
pub(super) fn object(yaml: Yaml) -> Result<Value, ManifestError> {
    convert("", yaml)
}

fn convert(path: &str, yaml: Yaml) -> Result<Value, ManifestError> {
    let refused = |path: &str, message: &str| ManifestError::Field {
        path: path.to_owned(),
        message: message.to_owned(),
    };
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(it) => it.into(),
        Yaml::String(it) => it.into(),
        Yaml::Number(number) => serde_json::to_value(&number)
            .ok()
            .filter(|it| !it.is_null())
            .ok_or_else(|| refused(path, &format!("found `{number}`: give a number")))?,
        Yaml::Sequence(list) => {
            let list = list.into_iter().enumerate();
            let list = list.map(|(index, it)| convert(&format!("{path}[{index}]"), it));
            Value::Array(list.collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(mapping) => {
            let mut map = Map::new();
            for (key, value) in mapping {
                let key = match key {
                    Yaml::String(key) => key,
                    Yaml::Bool(key) => key.to_string(),
                    Yaml::Number(key) => key.to_string(),
                    _ => return Err(refused(path, "it has a key that is no text: give text")),
                };
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                if key == "<<" {
                    let message = "mappings are not merged here: write out what is to be there";
                    return Err(refused(&path, message));
                }
                let value = convert(&path, value)?;
                if map.insert(key, value).is_some() {
                    return Err(refused(&path, "it is given twice: keep one"));
                }
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => {
            let message = format!("the tag `{}` has no meaning here: remove it", tagged.tag);
            return Err(refused(path, &message));
        }
    })
}
