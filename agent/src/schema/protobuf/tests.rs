//! Both versions are written as .proto and compiled; what is expected comes from Protobuf's own
//! guide ("Updating A Message Type").

use super::*;

fn set(body: &str) -> Descriptors {
    let source = format!("syntax = \"proto3\";\npackage t;\n{body}\n");
    compiled(&source)
}

fn compiled(source: &str) -> Descriptors {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("t.proto");
    std::fs::write(&file, source).expect("write");
    let set = protox::compile([file], [folder.path()])
        .unwrap_or_else(|error| panic!("{source}: {error:?}"));
    Descriptors::parse(&set.encode_to_vec()).expect("a set")
}

/// The name of the pair, and `path: label` of what was found.
fn compared(old: &str, new: &str) -> (&'static str, Vec<String>) {
    named(&set(old), &set(new))
}

fn named(old: &Descriptors, new: &Descriptors) -> (&'static str, Vec<String>) {
    let comparison = compare(old, new);
    let found = comparison.findings.iter();
    let lines = found.map(|found| format!("{}: {}", found.path, found.hurts.label()));
    (comparison.compatibility().label(), lines.collect())
}

fn message(fields: &str) -> String {
    format!("message M {{ {fields} }}")
}

/// One field `x = 1` that changes its type.
fn type_change(old: &str, new: &str) -> (&'static str, usize) {
    let field = |kind: &str| message(&format!("{kind} x = 1;")) + " enum E { ZERO = 0; }";
    let (label, found) = compared(&field(old), &field(new));
    (label, found.len())
}

#[test]
fn a_field_may_come_and_go_with_its_number_reserved() {
    let old = message("string a = 1;");
    let new = message("string a = 1; string b = 2; map<string, int32> m = 3;");
    assert_eq!(compared(&old, &new), ("full", vec![]));
    assert_eq!(
        compared(&new, &old),
        (
            "none",
            vec![
                "t.M.b: breaks both ways".to_owned(),
                "t.M.m: breaks both ways".to_owned()
            ]
        )
    );
    let reserved = message("reserved 2, 3; reserved \"b\", \"m\"; string a = 1;");
    assert_eq!(compared(&new, &reserved), ("full", vec![]));
    let number_only = message("reserved 2 to 9; string a = 1; map<string, int32> m = 10;");
    assert_eq!(
        compared(&new, &number_only),
        (
            "none",
            vec![
                "t.M.b: note".to_owned(),
                "t.M.m: breaks both ways".to_owned()
            ]
        )
    );
}

#[test]
fn what_was_reserved_stays_so() {
    let old = message("reserved 2, 5 to 7; reserved \"b\"; string a = 1;");
    let (label, found) = compared(&old, &message("string a = 1; string c = 6;"));
    assert_eq!(label, "none");
    assert!(found.contains(&"t.M.c: breaks both ways".to_owned()));
    let (label, found) = compared(&old, &message("reserved 2; string a = 1;"));
    assert_eq!((label, found), ("full", vec!["t.M: note".to_owned()]));
    let (label, found) = compared(
        &old,
        &message("reserved 2, 5 to 7; string a = 1; string b = 3;"),
    );
    assert_eq!((label, found), ("full", vec!["t.M.b: note".to_owned()]));
}

#[test]
fn types_of_one_wire_form_may_follow_each_other() {
    let integers = ["int32", "int64", "uint32", "uint64", "bool"];
    for old in integers {
        for new in integers {
            let expected = usize::from(old != new);
            assert_eq!(type_change(old, new), ("full", expected), "{old} {new}");
        }
    }
    for (old, new) in [
        ("int32", "E"),
        ("E", "uint64"),
        ("sint32", "sint64"),
        ("fixed32", "sfixed32"),
        ("fixed64", "sfixed64"),
        ("string", "bytes"),
        ("bytes", "string"),
        ("bytes", "M"),
    ] {
        assert_eq!(type_change(old, new), ("full", 1), "{old} {new}");
    }
    for (old, new) in [
        ("int32", "sint32"),
        ("sint64", "int64"),
        ("int32", "fixed32"),
        ("fixed32", "fixed64"),
        ("float", "double"),
        ("float", "fixed32"),
        ("string", "int32"),
        ("string", "M"),
        ("bool", "E"),
    ] {
        assert_eq!(type_change(old, new), ("none", 1), "{old} {new}");
    }
}

#[test]
fn one_value_and_many() {
    let single = message("int32 n = 1; string s = 2;");
    let many = message("repeated int32 n = 1; repeated string s = 2;");
    assert_eq!(
        compared(&single, &many),
        (
            "backward",
            vec!["t.M.n: breaks forward".to_owned(), "t.M.s: note".to_owned()]
        )
    );
    assert_eq!(
        compared(&many, &single),
        (
            "forward",
            vec![
                "t.M.n: breaks backward".to_owned(),
                "t.M.s: note".to_owned()
            ]
        )
    );
}

#[test]
fn required_fields() {
    let proto2 = |fields: &str| {
        compiled(&format!(
            "syntax = \"proto2\";\npackage t;\nmessage M {{ {fields} }}"
        ))
    };
    let optional = proto2("optional int32 a = 1;");
    let required = proto2("required int32 a = 1;");
    let added = proto2("optional int32 a = 1; required int32 b = 2;");
    assert_eq!(named(&optional, &required).0, "forward");
    assert_eq!(named(&required, &optional).0, "backward");
    assert_eq!(named(&optional, &added).0, "forward");
    let gone = proto2("optional int32 a = 1; reserved 2; reserved \"b\";");
    assert_eq!(named(&added, &gone).0, "backward");
}

#[test]
fn oneofs() {
    let apart = message("string a = 1; string b = 2;");
    let one = message("oneof o { string a = 1; } string b = 2;");
    let both = message("oneof o { string a = 1; string b = 2; }");
    assert_eq!(
        compared(&apart, &one),
        ("full", vec!["t.M.a: note".to_owned()])
    );
    assert_eq!(compared(&apart, &both).0, "forward");
    assert_eq!(compared(&one, &both).0, "forward");
    assert_eq!(compared(&both, &apart).0, "backward");
    let with_new = message("string a = 1; string b = 2; oneof o { string c = 3; string d = 4; }");
    assert_eq!(compared(&apart, &with_new), ("full", vec![]));
    // `optional` is a oneof of one that protoc makes up.
    let present = message("optional string a = 1; string b = 2;");
    assert_eq!(compared(&apart, &present), ("full", vec![]));
}

#[test]
fn names_matter_to_json_only() {
    let old = message("string a = 1;");
    let new = message("string b = 1;");
    assert_eq!(
        compared(&old, &new),
        ("full", vec!["t.M.a: note".to_owned()])
    );
}

#[test]
fn a_number_that_moves_breaks_both_ways() {
    let old = message("string a = 1;");
    for new in [
        message("string a = 2;"),
        message("reserved 1; string a = 2;"),
    ] {
        assert_eq!(
            compared(&old, &new),
            ("none", vec!["t.M.a: breaks both ways".to_owned()])
        );
    }
}

#[test]
fn enum_values() {
    let old = "enum E { ZERO = 0; ONE = 1; TWO = 2; } message M { E e = 1; }";
    let cases = [
        (
            "enum E { ZERO = 0; ONE = 1; TWO = 2; MORE = 3; } message M { E e = 1; }",
            "full",
        ),
        (
            "enum E { ZERO = 0; ONE = 1; } message M { E e = 1; }",
            "none",
        ),
        (
            "enum E { reserved 2; ZERO = 0; ONE = 1; } message M { E e = 1; }",
            "full",
        ),
        (
            "enum E { ZERO = 0; TWO = 1; ONE = 2; } message M { E e = 1; }",
            "none",
        ),
        (
            "enum E { ZERO = 0; ONE = 1; DEUX = 2; } message M { E e = 1; }",
            "full",
        ),
    ];
    for (new, expected) in cases {
        assert_eq!(compared(old, new).0, expected, "{new}");
    }
}

#[test]
fn messages_that_contain_themselves_end() {
    let old = "message M { M next = 1; N n = 2; } message N { M m = 1; string s = 2; }";
    let new = "message M { M next = 1; N n = 2; } message N { M m = 1; int32 s = 2; }";
    assert_eq!(compared(old, old), ("full", vec![]));
    assert_eq!(
        compared(old, new),
        ("none", vec!["t.N.s: breaks both ways".to_owned()])
    );
}

#[test]
fn a_message_that_is_gone_and_what_is_no_set() {
    assert_eq!(
        compared("message M {} message N {}", "message M {}").0,
        "none"
    );
    assert!(Descriptors::parse(b"").is_err());
    assert!(Descriptors::parse(b"{\"type\": \"record\"}").is_err());
}

#[test]
fn random_bytes_are_no_set_and_stop_nothing() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for len in 0..400 {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let _ = Descriptors::parse(&bytes);
    }
}
