//! JSON with everything that a usual parser forgets: the order of fields, fields that are there
//! twice, the form of numbers.

use std::fmt::{self, Write as _};
use std::iter::Peekable;
use std::net::IpAddr;
use std::vec;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::{Layout, Result};

/// A document, with every field where it was, twice if it was there twice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Bool(bool),
    Integer(u64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything but null and negative integers, which no field is")
            }
            fn visit_bool<E>(self, value: bool) -> std::result::Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_u64<E>(self, value: u64) -> std::result::Result<Json, E> {
                Ok(Json::Integer(value))
            }
            fn visit_f64<E>(self, value: f64) -> std::result::Result<Json, E> {
                Ok(Json::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> std::result::Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = entries.next_entry()? {
                    fields.push(field);
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Json {
    /// The one way in which the contract writes this document.
    pub(crate) fn write(&self, layout: Layout) -> String {
        let mut text = String::new();
        self.write_to(&mut text, layout, 0);
        text.push('\n');
        text
    }

    fn write_to(&self, text: &mut String, layout: Layout, depth: usize) {
        match self {
            Json::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Json::Integer(value) => text.push_str(&value.to_string()),
            Json::Float(value) => text.push_str(&number(*value)),
            Json::Text(value) => text.push_str(&string(value)),
            Json::List(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    separate(text, layout, depth, index);
                    item.write_to(text, layout, depth + 1);
                }
                close(text, layout, depth, items.is_empty(), ']');
            }
            Json::Object(fields) => {
                text.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    separate(text, layout, depth, index);
                    text.push_str(&string(name));
                    text.push_str(match layout {
                        Layout::Indented => ": ",
                        Layout::Compact => ":",
                    });
                    value.write_to(text, layout, depth + 1);
                }
                close(text, layout, depth, fields.is_empty(), '}');
            }
        }
    }
}

fn separate(text: &mut String, layout: Layout, depth: usize, index: usize) {
    if index > 0 {
        text.push(',');
    }
    new_line(text, layout, depth + 1);
}

fn close(text: &mut String, layout: Layout, depth: usize, is_empty: bool, bracket: char) {
    if !is_empty {
        new_line(text, layout, depth);
    }
    text.push(bracket);
}

fn new_line(text: &mut String, layout: Layout, depth: usize) {
    if layout == Layout::Indented {
        let _ = write!(text, "\n{:1$}", "", 2 * depth);
    }
}

/// Whole numbers without `.0`, the shortest digits that read back the same, plain decimals between
/// 1e-6 and 1e21.
fn number(value: f64) -> String {
    if value == 0.0 || (1e-6..1e21).contains(&value.abs()) {
        value.to_string()
    } else {
        format!("{value:e}")
    }
}

/// With everything escaped that HTML or JavaScript would take for something else.
fn string(value: &str) -> String {
    let mut text = serde_json::Value::from(value).to_string();
    for special in ['<', '>', '&', '\u{2028}', '\u{2029}'] {
        text = text.replace(special, &format!("\\u{:04x}", u32::from(special)));
    }
    text
}

/// A part of a document, and where it stands.
#[derive(Debug)]
pub(crate) struct Value {
    at: String,
    json: Json,
}

impl Value {
    pub(crate) fn document(json: Json) -> Value {
        Value {
            at: "document".to_owned(),
            json,
        }
    }

    fn is_no<T>(&self, kind: &str) -> Result<T> {
        Err(format!("{}: no {kind}: {:?}", self.at, self.json))
    }

    pub(crate) fn object(self) -> Result<Fields> {
        match self.json {
            Json::Object(fields) => Ok(Fields {
                at: self.at,
                fields: fields.into_iter().peekable(),
            }),
            _ => self.is_no("object"),
        }
    }

    pub(crate) fn list(self) -> Result<Vec<Value>> {
        let Json::List(items) = self.json else {
            return self.is_no("array");
        };
        let at = self.at;
        let item = |(index, json)| Value {
            at: format!("{at}[{index}]"),
            json,
        };
        Ok(items.into_iter().enumerate().map(item).collect())
    }

    pub(crate) fn text(self) -> Result<String> {
        match self.json {
            Json::Text(text) => Ok(text),
            _ => self.is_no("string"),
        }
    }

    pub(crate) fn boolean(self) -> Result<bool> {
        match self.json {
            Json::Bool(value) => Ok(value),
            _ => self.is_no("boolean"),
        }
    }

    pub(crate) fn integer(self) -> Result<u64> {
        match self.json {
            Json::Integer(value) => Ok(value),
            _ => self.is_no("integer that is not negative"),
        }
    }

    pub(crate) fn port(self) -> Result<u16> {
        match self.json {
            Json::Integer(value @ 0..=65535) => Ok(value as u16),
            _ => self.is_no("port"),
        }
    }

    /// Milliseconds, counts and ratios: none is negative.
    pub(crate) fn number(self) -> Result<f64> {
        match self.json {
            Json::Integer(value) => Ok(value as f64),
            Json::Float(value) if value.is_finite() && value >= 0.0 => Ok(value),
            _ => self.is_no("number that is not negative"),
        }
    }

    /// An address in its usual text form: RFC 5952 for IPv6.
    pub(crate) fn address(self) -> Result<IpAddr> {
        let at = self.at.clone();
        let text = self.text()?;
        match text.parse::<IpAddr>() {
            Ok(address) if address.to_string() == text => Ok(address),
            Ok(address) => Err(format!("{at}: {text} is usually written {address}")),
            Err(_) => Err(format!("{at}: no IP address: {text:?}")),
        }
    }
}

/// An object's fields, to be taken in their order.
#[derive(Debug)]
pub(crate) struct Fields {
    at: String,
    fields: Peekable<vec::IntoIter<(String, Json)>>,
}

impl Fields {
    pub(crate) fn take(&mut self, name: &str) -> Result<Value> {
        match self.fields.next() {
            Some((found, json)) if found == name => Ok(Value {
                at: format!("{}.{name}", self.at),
                json,
            }),
            Some((found, _)) => Err(format!("{}: {found} where {name} belongs", self.at)),
            None => Err(format!("{}: {name} is missing", self.at)),
        }
    }

    pub(crate) fn take_optional(&mut self, name: &str) -> Option<Value> {
        let (_, json) = self.fields.next_if(|(found, _)| found == name)?;
        Some(Value {
            at: format!("{}.{name}", self.at),
            json,
        })
    }

    /// What stands where: for what is wrong with more than one field.
    pub(crate) fn wrong<T>(&self, what: impl fmt::Display) -> Result<T> {
        Err(format!("{}: {what}", self.at))
    }

    pub(crate) fn end(mut self) -> Result<()> {
        match self.fields.next() {
            Some((name, _)) => self.wrong(format_args!("unknown field {name}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_strings_are_written_as_the_contract_shows() {
        for (value, text) in [
            (0.0, "0"),
            (0.02, "0.02"),
            (0.000_001, "0.000001"),
            (0.000_000_1, "1e-7"),
            (12.7, "12.7"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(string("a<b>&\"\u{2028}"), r#""a\u003cb\u003e\u0026\"\u2028""#);
    }

    #[test]
    fn both_layouts() {
        let text = r#"{"a":[],"b":{},"c":[1,{"d":true}]}"#;
        let json: Json = serde_json::from_str(text).unwrap();
        assert_eq!(json.write(Layout::Compact), format!("{text}\n"));
        let indented =
            serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(json.write(Layout::Indented), indented.unwrap() + "\n");
    }
}
