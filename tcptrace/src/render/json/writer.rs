//! Owns the way of a line's values into JSON, for one line after the other into the same buffer.
//!
//! It is most of what user space does for an event. What serde_json does for any writer and any value takes twice
//! as many instructions (`cargo xtask bench cost`); sonic-rs takes a tenth less than serde_json.
//!
//! A member whose name is empty stands for the members of its value, which must be a structure or none:
//! `#[serde(rename = "")]`. With `#[serde(flatten)]` each name would be a text that nobody knows until it is
//! written, and that has to be looked at for what needs escaping.

#![expect(
    clippy::inline_always,
    reason = "a name is written as the constant that it is only where it is known"
)]

use std::fmt::{self, Display, Formatter, Write as _};

use serde::{
    Serialize, Serializer,
    ser::{
        self, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
        SerializeTupleStruct, SerializeTupleVariant,
    },
};

use super::bytes::{Formatted, named, raw, string, word};

/// Appends `value` to `out` as JSON, without any space.
///
/// # Errors
/// When `value` refuses to be serialized. The buffer then ends in the middle of it.
pub(super) fn write<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), Refused> {
    value.serialize(Writer::new(out))
}

/// Appends the members of `value`, which must be a structure, as they are in an object, each followed by a comma.
///
/// # Errors
/// Likewise.
pub(super) fn write_members<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), Refused> {
    value.serialize(Writer { out, joins: true })
}

/// What a value said that refuses to be serialized.
#[derive(Debug)]
pub(super) struct Refused(String);

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Where the next value goes.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Whether the value is a structure whose members join those of the object that has begun.
    joins: bool,
}

/// A list or an object that has begun. Each of its values is followed by a comma, and the end takes the place of
/// the last one.
struct Compound<'a> {
    out: &'a mut Vec<u8>,
    /// What follows its last value; nothing where it has joined another one.
    end: &'static [u8],
}

impl<'a> Writer<'a> {
    #[inline(always)]
    fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, joins: false }
    }

    #[inline(always)]
    fn compound(self, begin: u8, end: &'static [u8]) -> Compound<'a> {
        self.out.push(begin);
        Compound { out: self.out, end }
    }

    /// An object with one member, whose value begins as `begin` says.
    fn variant(self, name: &str, begin: u8, end: &'static [u8]) -> Compound<'a> {
        self.out.push(b'{');
        string(self.out, name);
        self.out.extend_from_slice(&[b':', begin]);
        Compound { out: self.out, end }
    }

    #[inline]
    fn integer<I: itoa::Integer>(self, number: I) {
        let mut buffer = itoa::Buffer::new();
        raw(self.out, buffer.format(number));
    }

    /// Numbers with a point are rare: the shortest digits that mean the same number are left to serde_json.
    fn float<T: Serialize>(self, number: T) -> Result<(), Refused> {
        serde_json::to_writer(self.out, &number).map_err(ser::Error::custom)
    }
}

impl Compound<'_> {
    #[inline(always)]
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(Writer::new(self.out))?;
        self.out.push(b',');
        Ok(())
    }

    /// The name is one that this program chose: there is nothing in it to escape. Inlined, so that it is
    /// written as the constant that it is.
    #[inline(always)]
    fn member<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        if name.is_empty() {
            let joining = Writer {
                out: self.out,
                joins: true,
            };
            return value.serialize(joining);
        }
        named(self.out, name);
        self.element(value)
    }

    #[inline(always)]
    #[expect(
        clippy::unnecessary_wraps,
        reason = "the traits of serde want a result"
    )]
    fn finish(self) -> Result<(), Refused> {
        if self.end.is_empty() {
            return Ok(());
        }
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
        self.out.extend_from_slice(self.end);
        Ok(())
    }
}

impl<'a> Serializer for Writer<'a> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Compound<'a>;
    type SerializeTuple = Compound<'a>;
    type SerializeTupleStruct = Compound<'a>;
    type SerializeTupleVariant = Compound<'a>;
    type SerializeMap = Compound<'a>;
    type SerializeStruct = Compound<'a>;
    type SerializeStructVariant = Compound<'a>;

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Refused> {
        let text: &[u8] = if value { b"true" } else { b"false" };
        self.out.extend_from_slice(text);
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), Refused> {
        self.integer(value);
        Ok(())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Refused> {
        self.integer(value);
        Ok(())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Refused> {
        self.integer(value);
        Ok(())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Refused> {
        self.integer(value);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Refused> {
        self.integer(value);
        Ok(())
    }

    #[inline]
    fn serialize_u16(self, value: u16) -> Result<(), Refused> {
        self.integer(value);
        Ok(())
    }

    #[inline]
    fn serialize_u32(self, value: u32) -> Result<(), Refused> {
        self.integer(value);
        Ok(())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<(), Refused> {
        self.integer(value);
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Refused> {
        self.float(value)
    }

    fn serialize_f64(self, value: f64) -> Result<(), Refused> {
        self.float(value)
    }

    fn serialize_char(self, value: char) -> Result<(), Refused> {
        string(self.out, value.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Refused> {
        string(self.out, value);
        Ok(())
    }

    /// In the place of a structure whose members join, they are such members, written before.
    fn serialize_bytes(self, value: &[u8]) -> Result<(), Refused> {
        if self.joins {
            self.out.extend_from_slice(value);
            return Ok(());
        }
        self.collect_seq(value)
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Refused> {
        if self.joins {
            return Ok(());
        }
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Refused> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Refused> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), Refused> {
        word(self.out, variant);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        let mut object = self.compound(b'{', b"}");
        object.member(variant, value)?;
        object.finish()
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Compound<'a>, Refused> {
        Ok(self.compound(b'[', b"]"))
    }

    fn serialize_tuple(self, _len: usize) -> Result<Compound<'a>, Refused> {
        Ok(self.compound(b'[', b"]"))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _len: usize,
    ) -> Result<Compound<'a>, Refused> {
        Ok(self.compound(b'[', b"]"))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Compound<'a>, Refused> {
        Ok(self.variant(variant, b'[', b"]}"))
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Compound<'a>, Refused> {
        Ok(self.compound(b'{', b"}"))
    }

    #[inline(always)]
    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Compound<'a>, Refused> {
        if self.joins {
            return Ok(Compound {
                out: self.out,
                end: b"",
            });
        }
        Ok(self.compound(b'{', b"}"))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Compound<'a>, Refused> {
        Ok(self.variant(variant, b'{', b"}}"))
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Refused> {
        self.out.push(b'"');
        write!(Formatted(self.out), "{value}").map_err(ser::Error::custom)?;
        self.out.push(b'"');
        Ok(())
    }
}

impl SerializeMap for Compound<'_> {
    type Ok = ();
    type Error = Refused;

    /// A name that is a number is a string nevertheless.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        let start = self.out.len();
        key.serialize(Writer::new(self.out))?;
        if self.out.get(start) != Some(&b'"') {
            self.out.insert(start, b'"');
            self.out.push(b'"');
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.out.push(b':');
        self.element(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.finish()
    }
}

impl SerializeStruct for Compound<'_> {
    type Ok = ();
    type Error = Refused;

    #[inline(always)]
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.member(name, value)
    }

    fn end(self) -> Result<(), Refused> {
        self.finish()
    }
}

impl SerializeStructVariant for Compound<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.member(name, value)
    }

    fn end(self) -> Result<(), Refused> {
        self.finish()
    }
}

impl SerializeSeq for Compound<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.finish()
    }
}

impl SerializeTuple for Compound<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.finish()
    }
}

impl SerializeTupleStruct for Compound<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.finish()
    }
}

impl SerializeTupleVariant for Compound<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    fn end(self) -> Result<(), Refused> {
        self.finish()
    }
}

#[cfg(test)]
mod tests;
