//! Messages in protobuf's encoding, changed field by field without knowing what they are: so that what
//! comes out is mostly a message still, with other content.

use proptest::prelude::{Just, any, prop};
use proptest::prop_oneof;
use proptest::sample::{Index, select};
use proptest::strategy::Strategy;

use super::changed;

#[derive(Clone, Debug)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    /// Bytes, a text, or a message that does not look like one.
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

#[derive(Clone, Debug)]
enum Change {
    Number(u64),
    Resize(usize),
    Fill(u8),
    Remove,
    Repeat(usize),
    Renumber(u64),
    /// The content of another field of the message.
    Other(Index),
    Empty,
}

/// Longest list that comes of it, and most bytes.
const MANY: usize = 70_000;
const MOST_BYTES: usize = 2 << 20;

/// One of these messages with a few changes of its fields, and now and then of its bytes.
pub fn messages(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let numbers = vec![
        0,
        1,
        2,
        7,
        127,
        128,
        65_535,
        65_536,
        u64::from(u32::MAX),
        1 << 32,
        1 << 62,
        (1 << 62) + 1,
        1 << 63,
        u64::MAX,
    ];
    let change = prop_oneof![
        8 => select(numbers).prop_map(Change::Number),
        2 => select(vec![0, 1, 15, 16, 17, 32, 253, 254, 1_000]).prop_map(Change::Resize),
        1 => any::<u8>().prop_map(Change::Fill),
        3 => Just(Change::Remove),
        2 => (2..5_usize).prop_map(Change::Repeat),
        1 => (0..40_u64).prop_map(Change::Renumber),
        2 => any::<Index>().prop_map(Change::Other),
        1 => Just(Change::Empty),
    ];
    // Seldom: it takes long.
    let change = prop_oneof![2_000 => change, 1 => Just(Change::Repeat(MANY))];
    let changes = prop::collection::vec((any::<Index>(), change), 0..4);
    let by_field = (select(seeds.clone()), changes).prop_map(|(seed, changes)| {
        let mut fields = parse(&seed).expect("seeds are messages");
        for (at, change) in changes {
            let count = count(&fields);
            if count > 0 {
                let other = match &change {
                    Change::Other(other) => find(&fields, other.index(count)),
                    _ => None,
                };
                let mut left = at.index(count);
                apply(&mut fields, &mut left, &change, other);
            }
        }
        write(&fields)
    });
    prop_oneof![4 => by_field, 1 => changed(seeds)]
}

/// Fields at all depths.
fn count(fields: &[Field]) -> usize {
    let inside = |field: &Field| match &field.value {
        Value::Message(fields) => count(fields),
        _ => 0,
    };
    fields.iter().map(|field| 1 + inside(field)).sum()
}

/// The value of one of them.
fn find(fields: &[Field], mut at: usize) -> Option<Value> {
    for field in fields {
        if at == 0 {
            return Some(field.value.clone());
        }
        at -= 1;
        if let Value::Message(inside) = &field.value {
            let inner = count(inside);
            if at < inner {
                return find(inside, at);
            }
            at -= inner;
        }
    }
    None
}

/// Changes one of them; whether it was among these.
fn apply(fields: &mut Vec<Field>, left: &mut usize, change: &Change, other: Option<Value>) -> bool {
    for at in 0..fields.len() {
        if *left == 0 {
            let field = &mut fields[at];
            match (change, &mut field.value) {
                (Change::Number(to), Value::Number(number)) => *number = *to,
                (Change::Number(to), Value::Fixed64(bytes)) => *bytes = to.to_le_bytes(),
                (Change::Resize(length), Value::Bytes(bytes)) => bytes.resize(*length, b'a'),
                (Change::Fill(byte), Value::Bytes(bytes)) => bytes.fill(*byte),
                (Change::Remove, _) => drop(fields.remove(at)),
                (Change::Repeat(times), _) => {
                    let bytes = write(std::slice::from_ref(field)).len();
                    let again = vec![field.clone(); (*times).min(MOST_BYTES / bytes)];
                    fields.splice(at..at, again);
                }
                (Change::Renumber(number), _) => field.number = *number,
                (Change::Empty, Value::Message(inside)) => inside.clear(),
                (_, value) => *value = other.unwrap_or(Value::Bytes(Vec::new())),
            }
            return true;
        }
        *left -= 1;
        if let Value::Message(inside) = &mut fields[at].value
            && apply(inside, left, change, other.clone())
        {
            return true;
        }
    }
    false
}

fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(number(&mut bytes)?),
            1 => Value::Fixed64(*take(&mut bytes, 8)?.first_chunk()?),
            2 => {
                let length = usize::try_from(number(&mut bytes)?).ok()?;
                let inside = take(&mut bytes, length)?;
                match parse(inside) {
                    Some(fields) if !fields.is_empty() => Value::Message(fields),
                    _ => Value::Bytes(inside.to_vec()),
                }
            }
            5 => Value::Fixed32(*take(&mut bytes, 4)?.first_chunk()?),
            _ => return None,
        };
        if key >> 3 == 0 {
            return None;
        }
        fields.push(Field {
            number: key >> 3,
            value,
        });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn write(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, value } in fields {
        let (kind, content) = match value {
            Value::Number(it) => (0, varint(*it)),
            Value::Fixed64(it) => (1, it.to_vec()),
            Value::Fixed32(it) => (5, it.to_vec()),
            Value::Bytes(it) => (2, it.clone()),
            Value::Message(it) => (2, write(it)),
        };
        out.extend(varint(number << 3 | kind));
        if kind == 2 {
            out.extend(varint(content.len() as u64));
        }
        out.extend(content);
    }
    out
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_as_it_was_read() {
        // Field 1: 300; field 2: a message with the text `abc` in field 4; field 3: eight bytes.
        let bytes = [
            8, 0xac, 2, 18, 5, 34, 3, b'a', b'b', b'c', 25, 1, 2, 3, 4, 5, 6, 7, 8,
        ];
        let fields = parse(&bytes).unwrap();
        assert_eq!((fields.len(), count(&fields)), (3, 4));
        assert_eq!(write(&fields), bytes);
        assert!(parse(&bytes[..4]).is_none() && parse(&[0]).is_none());
    }
}
