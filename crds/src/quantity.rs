//! Amounts of bytes as Kubernetes writes them.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount of bytes as a Kubernetes quantity: a number with a suffix, `Ki Mi Gi Ti Pi Ei` for
/// powers of 1024, `k M G T P E` for powers of 1000, such as `16Mi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// As the user wrote it: a manifest read back looks the same.
    text: String,
    bytes: u64,
}

/// Why a text is not a [`Quantity`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an amount of bytes: write a number with a suffix (Ki, Mi, Gi, Ti, or k, M, G, T), such as 16Mi"
)]
pub struct QuantityError(String);

/// Largest quantity that Kubernetes knows, in bytes.
const MAX_BYTES: u128 = i64::MAX as u128;
/// Longest text.
const MAX_LENGTH: usize = 32;

// === impl Quantity ===

impl Quantity {
    /// A number of mebibytes.
    pub fn mebibytes(count: u64) -> Self {
        Self {
            text: format!("{count}Mi"),
            bytes: count << 20,
        }
    }

    /// A number of gibibytes.
    pub fn gibibytes(count: u64) -> Self {
        Self {
            text: format!("{count}Gi"),
            bytes: count << 30,
        }
    }

    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// As Kubernetes does: rounded up to whole bytes, and the largest that there is for any larger one.
    fn parse(text: &str) -> Option<u64> {
        let end = text
            .bytes()
            .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
            .count();
        let (number, suffix) = text.split_at(end);
        let scale: u128 = match suffix {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "Pi" => 1 << 50,
            "Ei" => 1 << 60,
            "k" | "e3" | "E3" => 1_000,
            "M" | "e6" | "E6" => 1_000_000,
            "G" | "e9" | "E9" => 1_000_000_000,
            "T" | "e12" | "E12" => 1_000_000_000_000,
            "P" | "e15" | "E15" => 1_000_000_000_000_000,
            "E" | "e18" | "E18" => 1_000_000_000_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
        if text.len() > MAX_LENGTH
            || !is_number(whole)
            || !is_number(fraction)
            || fraction.len() > 9
        {
            return None;
        }
        let unit = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = (fraction.parse::<u128>().ok()? * scale).div_ceil(unit);
        let whole = whole.parse::<u128>().ok()?.saturating_mul(scale);
        u64::try_from(whole.saturating_add(part).min(MAX_BYTES)).ok()
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes =
            Self::parse(text).ok_or_else(|| QuantityError(text.chars().take(64).collect()))?;
        Ok(Self {
            text: text.to_owned(),
            bytes,
        })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of bytes such as 16Mi")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Quantity, E> {
                // Larger numbers are none that the API server takes for whole.
                let text = bytes.to_string();
                if i64::try_from(bytes).is_err() {
                    return Err(E::custom(QuantityError(text)));
                }
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "maxLength": MAX_LENGTH,
            "pattern": "^[0-9]+(\\.[0-9]{1,9})?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E|[eE](3|6|9|12|15|18))?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_kubernetes_are_read_as_bytes() {
        for (text, bytes) in [
            ("16Mi", 16 << 20),
            ("8Gi", 8 << 30),
            ("1.5Ki", 1536),
            ("1k", 1_000),
            ("0.5G", 500_000_000),
            ("2e3", 2_000),
            ("42", 42),
            ("1E", 1_000_000_000_000_000_000),
            // As Kubernetes reads them.
            ("1.5", 2),
            ("0.1Ki", 103),
            ("0.000000001k", 1),
            ("8Ei", i64::MAX as u64),
            ("999999999999999999999999999Ei", i64::MAX as u64),
        ] {
            assert_eq!(text.parse::<Quantity>().map(|it| it.bytes()), Ok(bytes));
        }
    }

    #[test]
    fn what_is_not_an_amount_of_bytes_is_refused_with_an_example() {
        for text in [
            "",
            "Mi",
            "16mi",
            "16MiB",
            "-1",
            "1..5k",
            ".5k",
            "1.",
            "1.Ki",
            "0.0000000001k",
            "999999999999999999999999999999999",
            "1 Mi",
            "m",
            "1٣",
        ] {
            let error = text.parse::<Quantity>().expect_err(text).to_string();
            assert!(error.contains("16Mi"), "{error}");
        }
    }

    #[test]
    fn a_quantity_is_written_as_the_user_wrote_it() {
        let quantity: Quantity = serde_yaml::from_str("1.50Gi").expect("valid");
        assert_eq!(serde_yaml::to_string(&quantity).expect("plain"), "1.50Gi\n");
        let number: Quantity = serde_yaml::from_str("1024").expect("valid");
        assert_eq!(number.bytes(), 1024);
    }
}
