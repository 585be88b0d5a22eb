use std::collections::BTreeMap;

use super::*;

#[derive(Serialize)]
enum Kind {
    Unit,
    New(u8),
    Tuple(i64, f64),
    Struct { a: Option<u16>, b: () },
}

#[derive(Serialize)]
struct Inner<'a> {
    text: &'a str,
    character: char,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<u8>,
}

#[derive(Serialize)]
struct Outer<'a> {
    inner: Inner<'a>,
    numbers: BTreeMap<i32, bool>,
    address: std::net::IpAddr,
    kinds: Vec<Kind>,
    pair: (u64, i8),
    bytes: &'a [u8],
    none: Option<u8>,
}

fn written<T: Serialize>(value: &T) -> String {
    let mut out = Vec::new();
    write(&mut out, value).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn it_is_what_serde_json_writes() {
    for text in [
        "",
        "plain",
        "größe \u{202e}",
        "\"\\/\n\r\t\x08\x0c\x00\x1f\x7f",
    ] {
        let value = Outer {
            inner: Inner {
                text,
                character: '"',
                absent: None,
            },
            numbers: BTreeMap::from([(-1, true), (i32::MAX, false)]),
            address: "::ffff:1.2.3.4".parse().unwrap(),
            kinds: vec![
                Kind::Unit,
                Kind::New(255),
                Kind::Tuple(i64::MIN, 0.1),
                Kind::Struct { a: Some(7), b: () },
                Kind::Struct { a: None, b: () },
            ],
            pair: (u64::MAX, i8::MIN),
            bytes: &[0, 9],
            none: None,
        };
        assert_eq!(written(&value), serde_json::to_string(&value).unwrap());
    }
}

#[test]
fn a_member_without_a_name_stands_for_those_of_its_value() {
    #[derive(Serialize)]
    struct Line {
        #[serde(rename = "")]
        first: Pair,
        #[serde(rename = "")]
        none: Option<Pair>,
        last: Option<Pair>,
    }
    #[derive(Serialize)]
    struct Pair {
        a: u8,
        #[serde(rename = "")]
        nothing: Nothing,
        b: bool,
    }
    #[derive(Serialize)]
    struct Nothing {}

    let pair = || Pair {
        a: 1,
        nothing: Nothing {},
        b: true,
    };
    let line = |none, last| {
        written(&Line {
            first: pair(),
            none,
            last,
        })
    };
    assert_eq!(line(None, None), r#"{"a":1,"b":true,"last":null}"#);
    assert_eq!(
        line(Some(pair()), Some(pair())),
        r#"{"a":1,"b":true,"a":1,"b":true,"last":{"a":1,"b":true}}"#
    );
    assert_eq!(written(&Nothing {}), "{}");
}

#[test]
fn members_that_were_written_before_join_likewise() {
    struct Before(Vec<u8>);
    impl Serialize for Before {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&self.0)
        }
    }
    #[derive(Serialize)]
    struct Line {
        first: u8,
        #[serde(rename = "")]
        before: Before,
        list: Before,
    }
    #[derive(Serialize)]
    struct Pair<'a> {
        a: &'a str,
        b: u8,
    }

    let mut members = Vec::new();
    write_members(&mut members, &Pair { a: "\n", b: 2 }).unwrap();
    let line = Line {
        first: 1,
        before: Before(members),
        list: Before(vec![3]),
    };
    assert_eq!(written(&line), r#"{"first":1,"a":"\n","b":2,"list":[3]}"#);
}

#[test]
fn what_is_formatted_is_escaped() {
    struct Shown;
    impl Serialize for Shown {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&format_args!("a{}\n{:?}", "\"", "b"))
        }
    }
    assert_eq!(written(&Shown), serde_json::to_string(&Shown).unwrap());
}

#[test]
fn a_value_that_refuses_is_an_error_with_its_words() {
    struct Refusing;
    impl Serialize for Refusing {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(ser::Error::custom("not today"))
        }
    }
    let error = write(&mut Vec::new(), &Refusing).unwrap_err();
    assert_eq!(error.to_string(), "not today");
}
