//! What expressions give, and what they are refused for.

use proptest::prelude::*;
use proptest::sample;
use serde_json::json;

use super::function::{FUNCTIONS, OPTIONAL};
use super::*;

const KNOWN: &[&str] = &["identity", "request", "reason"];

fn variables() -> Variables {
    Variables::from([
        (
            "identity",
            json!({
                "subject": "alice", "session": null, "method": "jwt", "verifier": "app",
                "issuer": null, "expires": 1_900_000_000,
                "claims": {
                    "name": "Alice", "role": "admin", "groups": ["staff", "ops"], "age": 41,
                    "score": 1.5, "big": 18_446_744_073_709_551_615_u64, "org": null,
                    "empty": "", "nested": { "a": { "b": [1, 2, 3] } }
                }
            }),
        ),
        ("request", json!({ "path": "/ws/a", "headers": { "x-team": "red" }, "query": {} })),
        ("reason", json!({ "code": "expired", "text": "Session expired" })),
    ])
}

fn eval(source: &str) -> Result<Value, EvaluateError> {
    let expression = Expression::compile(source, KNOWN).unwrap_or_else(|e| panic!("{source}: {e}"));
    expression.evaluate(&variables())
}

fn refusal(source: &str) -> String {
    match Expression::compile(source, KNOWN) {
        Ok(_) => panic!("{source} compiles"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn expressions_give_values() {
    for (source, expected) in [
        ("identity.subject", json!("alice")),
        ("identity.claims.nested.a", json!({ "b": [1, 2, 3] })),
        ("identity.issuer", json!(null)),
        ("request.headers[\"x-team\"]", json!("red")),
        ("identity.claims.age + 1", json!(42)),
        ("identity.claims.score * 2.0", json!(3.0)),
        ("identity.claims.big", json!(18_446_744_073_709_551_615_u64)),
        ("identity.claims.big > 1u", json!(true)),
        ("identity.expires - 1 > 0", json!(true)),
        ("has(identity.claims.role) && identity.claims.role == \"admin\"", json!(true)),
        ("has(identity.claims.nope) && identity.claims.nope == \"admin\"", json!(false)),
        ("has(identity.claims.nope.deeper) || true", json!(true)),
        ("identity.claims.role in [\"member\", \"admin\"]", json!(true)),
        ("\"ops\" in identity.claims.groups", json!(true)),
        ("identity.claims.groups.exists(g, g.startsWith(\"o\"))", json!(true)),
        ("identity.claims.groups.map(g, g + \"!\")", json!(["staff!", "ops!"])),
        ("identity.claims.groups.filter(g, g != identity.claims.name)", json!(["staff", "ops"])),
        ("identity.claims.groups.exists(identity, identity == \"ops\")", json!(true)),
        (
            "identity.claims.nested.a.b.map(x, [1, 2].map(y, x * y))",
            json!([[1, 2], [2, 4], [3, 6]]),
        ),
        ("identity.claims.?nope.orValue(\"none\")", json!("none")),
        ("identity.claims.?role.orValue(\"none\")", json!("admin")),
        ("optional.of(1).value()", json!(1)),
        ("size(identity.claims.groups)", json!(2)),
        ("type(identity.subject) == string", json!(true)),
        ("string(timestamp(identity.expires))", json!("2030-03-17T17:46:40Z")),
        ("timestamp(identity.expires)", json!("2030-03-17T17:46:40Z")),
        ("request.path.matches(\"^/ws(/|$)\") && matches(request.path, \"a$\")", json!(true)),
        ("identity.claims.nope == 1 || true", json!(true)),
        ("identity.subject == \"alice\" ? \"yes\" : \"no\"", json!("yes")),
    ] {
        assert_eq!(eval(source).unwrap_or_else(|e| panic!("{source}: {e}")), expected, "{source}");
    }
}

#[test]
fn our_functions_give_what_the_contract_says() {
    for (source, expected) in [
        (
            "sha256(identity.subject)",
            "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90",
        ),
        ("sha256(b\"alice\") == sha256(\"alice\") ? \"same\" : \"\"", "same"),
        ("base64(identity.subject + \"?>\")", "YWxpY2U/Pg=="),
        ("url_encode(\"a b/ü~\" + identity.subject)", "a%20b%2F%C3%BC~alice"),
        ("json(identity.claims.nested)", r#"{"a":{"b":[1,2,3]}}"#),
        (
            "json({\"b\": 1, \"a\": [identity.subject, null, 1.5, true]})",
            r#"{"a":["alice",null,1.5,true],"b":1}"#,
        ),
        ("json(identity.subject + \"\\\"\")", r#""alice\"""#),
        ("identity.claims.groups.join(\", \")", "staff, ops"),
        ("join(identity.claims.groups, \"\")", "staffops"),
        ("\"a:b:c\".split(\":\").join(\"-\")", "a-b-c"),
        ("split(request.path, \"/\").join(\"|\")", "|ws|a"),
    ] {
        assert_eq!(
            eval(source).unwrap_or_else(|e| panic!("{source}: {e}")),
            json!(expected),
            "{source}"
        );
    }
}

#[test]
fn maps_keep_the_order_they_are_written_in() {
    let source = r#"{"type": "authenticated", "user": {"id": identity.subject, "name": identity.claims.name, "a": 1 + identity.claims.age}}"#;
    assert_eq!(
        eval(source).unwrap().to_string(),
        r#"{"type":"authenticated","user":{"id":"alice","name":"Alice","a":42}}"#
    );
    assert_eq!(
        eval("[identity.subject, 1, {\"a\": []}]").unwrap(),
        json!(["alice", 1, { "a": [] }])
    );
}

#[test]
fn missing_keys_are_told_apart_from_failures() {
    for source in [
        "identity.claims.nope",
        "identity.claims.nope.deeper",
        "identity.claims.org.name",
        "identity.claims.nope + \"x\"",
        "request.headers[\"x-nope\"]",
        "request.headers[\"x-nope\"] + \"\"",
        "identity.claims.nested.a.b[7]",
        "{\"name\": identity.claims.nope}",
    ] {
        assert_eq!(eval(source), Err(EvaluateError::Missing), "{source}");
    }
    for source in [
        "identity.claims.name + 1",
        "identity.claims.name.deeper",
        "identity.claims.age / 0",
        "9223372036854775807 + identity.claims.age",
        "-identity.claims.name",
        "int(identity.subject)",
        "duration(identity.subject)",
        "timestamp(identity.expires * 1000000)",
        "identity.claims.groups.join(1)",
        "\"a\".split(request.query.nope + identity.claims.empty)",
        "request.path.split(identity.claims.empty)",
        "identity.claims.name.matches(\"x\") + 1",
        "double(identity.claims.score) / 0.0",
    ] {
        assert!(eval(source).is_err(), "{source}");
    }
}

#[test]
fn errors_show_no_value() {
    let error = eval("identity.claims.name + 1").unwrap_err();
    assert_eq!(error.to_string(), "cannot be evaluated");
    assert_eq!(eval("identity.claims.nope").unwrap_err().to_string(), "no such key");
}

#[test]
fn refusals_are_one_line_and_say_where() {
    for (source, expected) in [
        (
            "identiy.subject",
            "unknown variable \"identiy\" (known: identity, request, reason); did you mean \"identity\"?",
        ),
        ("claims.name", "unknown variable \"claims\" (known: identity, request, reason)"),
        ("[1].map(x, y)", "unknown variable \"y\" (known: identity, request, reason)"),
        (
            "1 + sha265(identity.subject)",
            "unknown function \"sha265\" (line 1, column 11); did you mean \"sha256\"?",
        ),
        ("identity.subject.trim()", "unknown function \"trim\" (line 1, column 22)"),
        (
            "true ||\n identity.subject.startswith(\"a\")",
            "unknown function \"startswith\" (line 2, column 29); did you mean \"startsWith\"?",
        ),
        (
            "contains(identity.subject, \"a\")",
            "\"contains\" is called as x.contains(y) (line 1, column 9)",
        ),
        ("split(\"a\")", "\"split\" is called as split(x, y) or x.split(y) (line 1, column 6)"),
        ("identity.claims.map(x)", "\"map\" does not take these arguments (line 1, column 20)"),
        (
            "request.path.matches(\"(\")",
            "the pattern of matches() is not valid: unclosed group (line 1, column 21)",
        ),
        (
            "request.path.matches(identity.subject)",
            "the pattern of matches() must be text (line 1, column 21)",
        ),
        (
            "request.path.matches(\"\\\\w{1000}{100}\")",
            "the pattern of matches() is not valid: Compiled regex exceeds size limit of 262144 bytes. (line 1, column 21)",
        ),
        ("1 / 0", "always fails: Division by zero of Int(1)"),
        ("{\"a\": identity.subject, \"a\": 2}", "has the key \"a\" twice in one map"),
        ("Foo{a: 1}", "has a message literal, which has no use here (line 1, column 4)"),
        ("", "is empty; expected a CEL expression"),
    ] {
        assert_eq!(refusal(source), expected, "{source}");
    }
    for source in
        ["identity.subject ==", "(", "a b", "'", "identity..subject", "x.", "1 = 2", "[1,"]
    {
        let message = refusal(source);
        assert!(message.starts_with("is not a CEL expression: "), "{source}: {message}");
        assert!(!message.contains('\n') && message.len() < 240, "{source}: {message}");
        assert!(message.contains("(line 1, column "), "{source}: {message}");
    }
    assert!(refusal(&"a".repeat(4097)).starts_with("is 4097 bytes long"));
}

#[test]
fn deep_and_looping_expressions_are_refused() {
    for source in [
        format!("{}1", "!-".repeat(2000)),
        format!("{}1{}", "(".repeat(2000), ")".repeat(2000)),
        format!("{}1{}", "[".repeat(2000), "]".repeat(2000)),
        format!("identity{}", ".a".repeat(2000)),
        vec!["1"; 2000].join("+"),
        vec!["true?1"; 580].join(":") + ":2",
        format!("{}1{}", "size(".repeat(600), ")".repeat(600)),
        "[1].map(a, [a].map(b, [b].map(c, [c].map(d, d))))".to_owned(),
    ] {
        let message = refusal(&source);
        assert!(!message.contains('\n') && message.len() < 240, "{message}");
    }
    // Long and flat is fine.
    assert!(
        Expression::compile(&vec!["identity.subject == \"a\""; 100].join(" || "), KNOWN).is_ok()
    );
}

#[test]
fn a_run_ends_however_large_the_values_are() {
    let long: Vec<Value> = (0..100_000).map(Value::from).collect();
    let some: Vec<Value> = (0..1000).map(Value::from).collect();
    let text = "x".repeat(60_000);
    let large = Variables::from([(
        "identity",
        json!({ "long": long, "some": some, "text": text, "quotes": "\"\\".repeat(10_000) }),
    )]);
    for source in [
        "identity.long.exists(x, x < 0)",
        "identity.some.all(x, identity.some.all(y, identity.some.all(z, x + y + z >= 0)))",
        "identity.some.map(x, identity.text + string(x))",
        "identity.some.map(x, [identity.text, identity.text])",
        "identity.some.map(x, sha256(identity.text))",
        "identity.some.exists(x, identity.text.matches(\"y{20}\"))",
        "[identity.some].map(a, [a,a,a,a,a,a,a,a].map(b, [b,b,b,b,b,b,b,b]))",
        "identity.text + identity.text",
        "[identity.text, identity.text]",
        "json(json(json(json(json(identity.quotes)))))",
        "url_encode(url_encode(url_encode(identity.quotes + \"%\")))",
        "identity.long",
        "identity.text.split(\"x\").map(x, x)",
        "!identity.long.exists(x, x < 0) || true",
    ] {
        let expression =
            Expression::compile(source, KNOWN).unwrap_or_else(|e| panic!("{source}: {e}"));
        let started = std::time::Instant::now();
        let result = expression.evaluate(&large);
        let took = started.elapsed();
        assert_eq!(result, Err(EvaluateError::Failed), "{source}");
        assert!(took.as_millis() < 1500, "{source} took {took:?}");
    }
}

#[test]
fn the_deepest_expression_fits_a_small_stack() {
    let sources = [
        vec!["identity.subject"; 60].join("+"),
        format!("{}identity.claims.age{}", "size([".repeat(20), "])".repeat(20)),
        format!("{}identity.claims.age{}", "[".repeat(40), "][0]".repeat(20) + &"]".repeat(20)),
        (0..3).fold("x0".to_owned(), |inner, i| format!("[1].map(x{i}, {inner})")),
    ];
    for source in sources {
        let expression =
            Expression::compile(&source, KNOWN).unwrap_or_else(|e| panic!("{source}: {e}"));
        std::thread::Builder::new()
            .stack_size(1 << 20)
            .spawn(move || expression.evaluate(&variables()).is_ok())
            .unwrap()
            .join()
            .unwrap();
    }
}

#[test]
fn every_function_in_the_table_exists_and_no_other() {
    let known: Vec<String> = FUNCTIONS
        .iter()
        .flat_map(|f| {
            let plain =
                f.plain.iter().map(|n| format!("{}({})", f.name, vec!["\"1\""; *n].join(",")));
            let method = f
                .method
                .iter()
                .map(|n| format!("\"1\".{}({})", f.name, vec!["\"1\""; *n].join(",")));
            plain.chain(method).collect::<Vec<_>>()
        })
        .chain(
            OPTIONAL
                .iter()
                .map(|f| format!("optional.{}({})", f.name, vec!["1"; f.plain[0]].join(","))),
        )
        .collect();
    assert!(known.len() > 40);
    for source in known {
        if let Err(error) = Expression::compile(&source, KNOWN) {
            assert!(!error.to_string().contains("unknown"), "{source}: {error}");
        }
    }
}

#[test]
fn uses_names_the_free_variables_only() {
    let expression =
        Expression::compile("identity.claims.groups.exists(request, request == \"a\")", KNOWN)
            .unwrap();
    assert!(expression.uses("identity"));
    assert!(!expression.uses("request"));
    assert_eq!(expression.source(), "identity.claims.groups.exists(request, request == \"a\")");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_expression_panics(source in expressions()) {
        if let Ok(expression) = Expression::compile(&source, KNOWN) {
            let outcome = expression.plan.evaluate(&variables());
            if let Err(plan::Failure::Interpreter(text)) = outcome {
                prop_assert_ne!(text, "interpreter fault");
            }
        }
    }

    #[test]
    fn no_text_panics(source in "[a-z0-9 .,:?!&|()\\[\\]{}\"'<>=+*/%@`\\\\\n-]{0,60}") {
        let _ = Expression::compile(&source, KNOWN);
    }
}

/// Expressions that mostly parse, over edges of every type.
fn expressions() -> impl Strategy<Value = String> {
    const ATOMS: &[&str] = &[
        "identity.subject",
        "identity.claims",
        "identity.claims.groups",
        "identity.claims.age",
        "identity.claims.big",
        "identity.claims.nope",
        "identity.claims.?role",
        "identity.issuer",
        "request.headers",
        "1",
        "-9223372036854775808",
        "9223372036854775807",
        "0",
        "18446744073709551615u",
        "1.5",
        "1e308",
        "-0.0",
        "\"x\"",
        "\"\"",
        "\"ü\"",
        "b\"\\xff\"",
        "null",
        "true",
        "[]",
        "{}",
        "optional.none()",
        "timestamp(\"9999-12-31T23:59:59Z\")",
        "timestamp(\"0001-01-01T00:00:00Z\")",
        "duration(\"315576000000s\")",
        "duration(\"-9223372036s\")",
        "duration(\"1ns\")",
        "x",
        "int",
    ];
    const BINARY: &[&str] =
        &["+", "-", "*", "/", "%", "==", "!=", "<", ">=", " in ", "&&", "||", " ? true : "];
    const CALLS: &[&str] = &[
        "size",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "bool",
        "timestamp",
        "duration",
        "dyn",
        "type",
        "json",
        "sha256",
        "base64",
        "url_encode",
        "optional.of",
        "optional.ofNonZeroValue",
        "!",
        "-",
    ];
    const METHODS: &[&str] = &[
        "size()",
        "getDayOfYear()",
        "getFullYear(\"Asia/Tokyo\")",
        "getHours(\"+99:99\")",
        "getHours(\"-00:00\")",
        "getMilliseconds()",
        "getSeconds()",
        "getDate(\"\")",
        "matches(\"a+\")",
        "contains(\"x\")",
        "hasValue()",
        "value()",
        "orValue(1)",
        "or(optional.none())",
        "join(\",\")",
        "split(\",\")",
        "a",
    ];
    const LOOPS: &[&str] = &["map", "filter", "all", "exists", "exists_one"];
    let leaf = sample::select(ATOMS).prop_map(str::to_owned);
    leaf.prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            (inner.clone(), sample::select(BINARY), inner.clone())
                .prop_map(|(a, op, b)| format!("({a}{op}{b})")),
            (sample::select(CALLS), inner.clone()).prop_map(|(name, a)| format!("{name}({a})")),
            (inner.clone(), sample::select(METHODS)).prop_map(|(a, name)| format!("{a}.{name}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), sample::select(LOOPS), inner.clone())
                .prop_map(|(a, name, b)| format!("{a}.{name}(x, {b})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("has({a}.b) && {b}")),
        ]
    })
}

#[test]
fn what_is_written_around_a_value_can_be_taken_off() {
    for (source, value, expected) in [
        ("'sess:' + x", "sess:a", "a"),
        ("'a' + ':' + x + '!' + '?'", "a:b!?", "b"),
        ("'a' + (x + '!')", "ab!", "b"),
        ("'a:' + sha256(x) + x", "a:00b", "00b"),
        ("x", "sess:a", "sess:a"),
        ("'a' + 'b'", "ab", "ab"),
        ("x == '' ? 'a:' + x : 'b:' + x", "b:a", "b:a"),
        ("[x, 'a'][0]", "a", "a"),
        // Shorter than both together: nothing that this expression gives.
        ("'aa' + x + 'aa'", "aaa", "aaa"),
    ] {
        let expression = Expression::compile(source, &["x"]).unwrap();
        assert_eq!(expression.inner(value), expected, "{source}");
    }
}
