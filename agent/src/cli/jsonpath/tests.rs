use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pod() -> Value {
    json!({
        "kind": "List",
        "items": [
            {"metadata": {"name": "a", "labels": {"app.io/x": "1", "n": "2"}}, "ready": true, "n": 1,
             "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Accepted", "status": "False"}]}},
            {"metadata": {"name": "b", "labels": {}}, "ready": false, "n": 10, "status": {"conditions": []}},
            {"metadata": {"name": "c"}, "n": 2.5, "nothing": null},
        ],
    })
}

#[track_caller]
fn check(template: &str, want: &str) {
    let path = JsonPath::parse(template).unwrap();
    assert_eq!(path.render(&pod()).unwrap(), want, "{template}");
}

#[track_caller]
fn refused(template: &str, want: &str) {
    let text = JsonPath::parse(template).unwrap_err().to_string();
    assert!(text.contains(want), "{template}: {text}");
}

#[test]
fn fields_and_text_are_printed() {
    check("{.kind}", "List");
    check("{$.kind}/{@.kind}", "List/List");
    check("kind={.kind}{'\\n'}", "kind=List\n");
    check("{\"a\\tb\"}", "a\tb");
    check("{.missing.deep}|{.kind.deep}|{.items.name}", "||");
    check("{.items[0].metadata.labels}", r#"{"app.io/x":"1","n":"2"}"#);
    check("{.items[2].nothing}{.items[1].ready}", "nullfalse");
    check("{ .items[0] .n }", "1");
    check("plain", "plain");
    check("", "");
}

#[test]
fn names_with_dots_are_quoted_or_escaped() {
    check("{.items[0].metadata.labels['app.io/x']}", "1");
    check("{.items[0].metadata.labels[\"app.io/x\"]}", "1");
    check(r"{.items[0].metadata.labels.app\.io/x}", "1");
    check("{['kind']}{.['kind']}", "ListList");
}

#[test]
fn lists_have_indices_slices_unions_and_wildcards() {
    check("{.items[-1].metadata.name}", "c");
    check("{.items[7].metadata.name}{.items[-7].n}", "");
    check("{.items[*].metadata.name}", "a b c");
    check("{.items[0:2].n}", "1 10");
    check("{.items[1:].n}", "10 2.5");
    check("{.items[:-1].n}", "1 10");
    check("{.items[::2].n}", "1 2.5");
    check("{.items[2:1].n}{.items[9:].n}", "");
    check("{.items[0,2].n}", "1 2.5");
    check("{.items[0]['ready','n']}", "true 1");
    check("{.items[0].metadata.*}", r#"{"app.io/x":"1","n":"2"} a"#);
}

#[test]
fn filters_compare() {
    check("{.items[0].status.conditions[?(@.type==\"Ready\")].status}", "True");
    check("{.items[0].status.conditions[?(@.type != 'Ready')].status}", "False");
    check("{.items[?(@.n>1)].metadata.name}", "b c");
    check("{.items[?(@.n <= 2.5)].metadata.name}", "a c");
    check("{.items[?(@.ready==true)].n}", "1");
    check("{.items[?(@.metadata.labels)].metadata.name}", "a b");
    check("{.items[?(@.metadata.labels.n)].metadata.name}", "a");
    check("{.items[?(@.n==\"1\")].metadata.name}{.kind[?(@.x)]}", "");
    check("{.items[?(@.status.conditions[?(@.type==\"Ready\")].status==\"True\")].metadata.name}", "a");
    check("{.items[?(@.n>1)][?(@.x)]}", "");
}

#[test]
fn ranges_repeat_their_body_and_nest() {
    check("{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}", "a=1\nb=10\nc=2.5\n");
    check(
        "{range .items[*]}{.metadata.name}:{range .status.conditions[*]} {.type}{end};{end}!",
        "a: Ready Accepted;b:;c:;!",
    );
    check("{range .nothing[*]}x{end}", "");
}

#[test]
fn descent_finds_at_every_depth_parents_first() {
    check("{..name}", "a b c");
    check(
        "{.items[0]..status}",
        r#"{"conditions":[{"status":"True","type":"Ready"},{"status":"False","type":"Accepted"}]} True False"#,
    );
    check("{..conditions[0].type}", "Ready");
    check("{..[?(@.type==\"Accepted\")].status}", "False");
}

#[test]
fn an_expression_alone_may_go_without_braces() {
    for text in ["{.items[0].metadata.name}", ".items[0].metadata.name", "items[0].metadata.name", "$.items[0]..name"] {
        let path = JsonPath::parse_expression(text).unwrap();
        assert_eq!(path.find(&pod()).unwrap(), [&json!("a")], "{text}");
    }
    for text in ["{.a}{.b}", "{\"x\"}", "{range .a}{end}", ".a}", "{.a"] {
        assert!(JsonPath::parse_expression(text).is_err(), "{text}");
    }
    assert_eq!(JsonPath::parse_expression(".missing").unwrap().find(&pod()).unwrap(), [] as [&Value; 0]);
}

#[test]
fn mistakes_are_shown_with_their_place() {
    refused("{.a", "`}` is missing at character 4");
    refused("x{name}", "`name` needs a dot before it: {.name}, found at character 3");
    refused("{}", "an expression such as .metadata.name expected at character 2");
    refused("{.a[}", "inside `[ ]` at character 5");
    refused("{.a[b]}", "inside `[ ]`");
    refused("{.a[0}", "`]` expected, not `}`, at character 6");
    refused("{.a['x}", "a quote that never ends begins at character 5");
    refused("{range .a}{.b}", "`{range ...}` without its `{end}` at character 1");
    refused("{end}", "`{end}` without a `{range ...}` at character 1");
    refused("{.a[?(@.b == c)]}", "`c` must stand in quotes");
    refused("{.a[?(@.b && @.c)]}", "filters know no `&&`");
    refused("{.a...b}", "more than two dots");
    refused("{.a.}", "a field's name expected");
    refused("{.a[99999999999999999999]}", "a whole number expected");
    refused("{.a[::0]}", "step of 1 or more");
}

#[test]
fn bombs_are_refused() {
    assert_eq!(JsonPath::parse(&"x".repeat(TEMPLATE_BYTES_MAX + 1)), Err(JsonPathError::TooLong));
    refused(&"{range .a}".repeat(100), "ranges nested too deep");
    refused(&format!("{{.a{}", "[?(@".repeat(10_000)), "filters nested too deep");
    let mut deep = json!([1]);
    for _ in 0..100 {
        deep = json!([deep, 1]);
    }
    let path = JsonPath::parse(&format!("{{{}}}", "..*".repeat(20))).unwrap();
    assert_eq!(path.render(&deep), Err(JsonPathError::TooMuch));
    let wide = Value::Array(vec![json!(vec![0; 1_000]); 1_000]);
    let ranges = "{range $[*]}{range $[*]}x{end}{end}".repeat(4);
    assert_eq!(JsonPath::parse(&ranges).unwrap().render(&wide), Err(JsonPathError::TooMuch));
}

proptest! {
    #[test]
    fn arbitrary_templates_never_panic(
        template in "(\\PC|[{}\\[\\]().@$*?:,'\"\\\\=<>!-]|\\{\\.|\\}|range |\\{end\\}|items|metadata|name|\\[\\?\\(@\\.|\\[\\*\\]|\\.\\.|[0-9])*"
    ) {
        if let Ok(path) = JsonPath::parse(&template) {
            let _ = path.render(&pod());
            let _ = path.find(&pod());
        }
        let _ = JsonPath::parse_expression(&template);
    }

    #[test]
    fn any_key_can_be_reached_in_quotes(key in "[^'\\\\]{0,12}", number in any::<i32>()) {
        let mut fields = serde_json::Map::new();
        fields.insert(key.clone(), number.into());
        let path = JsonPath::parse(&format!("{{['{key}']}}")).unwrap();
        prop_assert_eq!(path.render(&Value::Object(fields)).unwrap(), number.to_string());
    }

    #[test]
    fn any_list_slices_as_rust_does(length in 0_usize..8, start in 0_usize..10, end in 0_usize..10) {
        let list: Vec<usize> = (0..length).collect();
        let want = list.get(start.min(end.min(length))..end.min(length)).unwrap_or_default().to_vec();
        let path = JsonPath::parse(&format!("{{[{start}:{end}]}}")).unwrap();
        let value = json!(list);
        let found = path.find(&value).unwrap().into_iter().map(|item| usize::try_from(item.as_u64().unwrap()).unwrap());
        prop_assert_eq!(found.collect::<Vec<_>>(), want);
    }
}
