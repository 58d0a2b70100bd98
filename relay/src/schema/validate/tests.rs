use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    super::{default, tests::tiny},
    *,
};

fn node(yaml: &str) -> Arc<Node> {
    tiny(yaml).unwrap_or_else(|error| panic!("{error}"))
}

fn found_between(node: &Node, value: &Value, old: Option<&Value>) -> Vec<String> {
    let mut findings = Findings::default();
    check(node, value, old, &mut findings);
    findings.into_problems().into_iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
}

fn found(yaml: &str, value: &Value) -> Vec<String> {
    found_between(&node(yaml), value, None)
}

#[test]
fn what_was_wrong_before_and_has_not_changed_is_let_be() {
    let node = node(
        "{type: object, properties: {name: {type: string, maxLength: 3}, size: {type: integer},
          labels: {type: object, additionalProperties: {type: string, maxLength: 1}},
          words: {type: array, items: {type: string, maxLength: 1}},
          ports: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [id], items: {type: object,
            required: [id], properties: {id: {type: integer}, port: {type: integer, maximum: 9}},
            x-kubernetes-validations: [{rule: 'self.port != 7', message: not seven}]}}}}",
    );
    let old = json!({
        "name": "long", "size": "1", "labels": {"a": "xx", "b": "y"}, "words": ["aa"],
        "ports": [{"id": 1, "port": 10}, {"id": 2, "port": 7}, {"id": 3, "port": 1}],
    });
    let changed = |change: fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        found_between(&node, &new, Some(&old))
    };
    assert_eq!(found_between(&node, &old, None).len(), 6);
    assert_eq!(changed(|_| ()), [""; 0]);
    assert_eq!(changed(|new| new["labels"]["c"] = json!("z")), [""; 0], "of a map, each value by itself");
    let reversed = |new: &mut Value| {
        new["ports"].as_array_mut().unwrap().reverse();
        new["ports"][0]["port"] = json!(2);
    };
    assert_eq!(changed(reversed), [""; 0], "items are known again by their keys");
    assert_eq!(changed(|new| new["name"] = json!("longer")), ["name: must be at most 3 characters, not 6"]);
    assert_eq!(changed(|new| new["labels"]["a"] = json!("zz")), ["labels[a]: must be at most 1 characters, not 2"]);
    let moved = |new: &mut Value| new["ports"][1]["id"] = json!(4);
    assert_eq!(changed(moved), ["ports[1]: not seven"], "another key, another item");
    let longer = |new: &mut Value| new["words"] = json!(["aa", "b"]);
    assert_eq!(changed(longer), ["words[0]: must be at most 1 characters, not 2"], "a list without keys is one value");
}

#[test]
fn values_have_the_type_and_bounds_of_their_definition() {
    for (yaml, value, want) in [
        ("{type: string, minLength: 1}", json!(""), "must not be empty"),
        ("{type: string, minLength: 3}", json!("äö"), "must be at least 3 characters"),
        ("{type: string, maxLength: 2}", json!("äöü"), "must be at most 2 characters, not 3"),
        ("{type: string, pattern: '^a+$'}", json!("ab\n"), "`ab\\n` does not match `^a+$`"),
        ("{type: string, enum: [A, B]}", json!("C"), "`C`: unknown value; may be `A`, `B`"),
        ("{type: string}", json!(null), "must be a string, not null"),
        ("{type: integer}", json!("1"), "must be a whole number, not a string"),
        ("{type: integer}", json!(1.5), "must be a whole number, not 1.5"),
        (
            "{type: integer, format: int32}",
            json!(1i64 << 40),
            "must be a whole number from -2147483648 to 2147483647, not 1099511627776",
        ),
        ("{type: integer, minimum: 1, maximum: 9}", json!(10), "must be a whole number from 1 to 9, not 10"),
        ("{type: integer, minimum: 0, format: int64}", json!(-1), "must be a whole number not below 0, not -1"),
        ("{type: number, minimum: 0, maximum: 1}", json!(1.5), "must be from 0 to 1, not 1.5"),
        ("{type: boolean}", json!(1), "must be true or false, not a number"),
        ("{x-kubernetes-int-or-string: true}", json!(true), "must be a whole number or a string, not a boolean"),
        ("{x-kubernetes-int-or-string: true, pattern: '^[0-9]+%$'}", json!("5"), "`5` does not match `^[0-9]+%$`"),
        ("{type: array, items: {type: string}, maxItems: 1}", json!(["a", "b"]), "must have at most 1 items, not 2"),
        ("{type: array, items: {type: string}, minItems: 1}", json!([]), "must have at least 1 item(s)"),
        (
            "{type: object, additionalProperties: {type: string}, maxProperties: 1}",
            json!({"a": "", "b": ""}),
            "must have at most 1 fields, not 2",
        ),
        ("{type: object, additionalProperties: {type: string}}", json!([]), "must be an object of strings, not a list"),
    ] {
        assert_eq!(found(yaml, &value), [format!(": {want}")], "{yaml}");
    }
    for (yaml, value) in [
        ("{type: string, nullable: true, minLength: 1}", json!(null)),
        ("{type: string, minLength: 2, maxLength: 2}", json!("äö")),
        ("{type: integer, format: int32}", json!(2.0)),
        ("{type: string, pattern: 'b'}", json!("abc")),
        ("{x-kubernetes-int-or-string: true, pattern: '^[0-9]+%$'}", json!(5)),
        ("{x-kubernetes-preserve-unknown-fields: true}", json!([null, {"a": 1}])),
    ] {
        assert_eq!(found(yaml, &value), Vec::<String>::new(), "{yaml}");
    }
}

#[test]
fn formats_are_checked() {
    for (format, good, bad) in [
        ("date-time", "2026-11-21T10:00:00.5+01:00", "2026-11-21"),
        ("duration", "1h2.5m", "1 hour"),
        ("duration", "-0.5s", ".s"),
        ("byte", "aGk=", "aGk"),
        ("ip", "fd00::1", "10.0.0"),
        ("ipv4", "10.0.0.1", "fd00::1"),
        ("ipv6", "fd00::1", "10.0.0.1"),
        ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
        ("hostname", "*.a.example", "a.example:80"),
        ("uri", "https://a.example/x?y", "a.example/x"),
    ] {
        let yaml = format!("{{type: string, format: {format}}}");
        assert_eq!(found(&yaml, &json!(good)), Vec::<String>::new(), "{format}");
        assert_eq!(found(&yaml, &json!(bad)).len(), 1, "{format}: {bad}");
    }
}

#[test]
fn items_that_are_told_apart_must_differ() {
    let set = "{type: array, x-kubernetes-list-type: set, items: {type: string}}";
    assert_eq!(found(set, &json!(["a", "b", "a"])), ["[2]: `a` is already item 0"]);
    let map = "{type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [n], items: {type: object, required: [n], properties: {n: {type: string}}}}";
    assert_eq!(
        found(map, &json!([{"n": "a"}, {}, {}, {"n": "a"}])),
        ["[1].n: required", "[2].n: required", "[3].n: `a` is already used by item 0"]
    );
    let pair = "{type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [n, p], items: {type: object, required: [n, p], properties: {n: {type: string}, p: {type: integer}}}}";
    let items = json!([{"n": "a", "p": 1}, {"n": "a", "p": 2}, {"n": "a", "p": 1}]);
    assert_eq!(found(pair, &items), ["[2]: item 0 has the same n, p"]);
}

#[test]
fn validations_are_joined_by_logic() {
    let one =
        "{type: object, properties: {a: {type: string}, b: {type: string}}, oneOf: [{required: [a]}, {required: [b]}]}";
    assert_eq!(found(one, &json!({})), [": fits none of the forms that are allowed here"]);
    assert_eq!(found(one, &json!({"a": ""})), Vec::<String>::new());
    assert_eq!(found(one, &json!({"a": "", "b": ""})), [": fits several forms that exclude each other"]);
    let not = "{type: string, not: {pattern: '^x'}, allOf: [{minLength: 2}], anyOf: [{format: ipv4}, {format: ipv6}]}";
    assert_eq!(found(not, &json!("10.0.0.1")), Vec::<String>::new());
    assert_eq!(found(not, &json!("x")).len(), 3);
    let deep = "{type: object, properties: {t: {type: string}, v: {type: string}}, oneOf: [{properties: {t: {enum: [A]}, v: {maxLength: 1}}}, {properties: {t: {not: {enum: [A]}}}}]}";
    assert_eq!(found(deep, &json!({"t": "B", "v": "long"})), Vec::<String>::new());
    let format = "{type: object, properties: {v: {type: string}}, oneOf: [{properties: {v: {anyOf: [{format: ipv4}, {format: ipv6}]}}}, {required: [v], properties: {v: {pattern: '^x$'}}}]}";
    assert_eq!(found(format, &json!({"v": "fd00::1"})), Vec::<String>::new());
    assert_eq!(found(format, &json!({"v": "fd00::z"})).len(), 1);
    assert_eq!(found(deep, &json!({"t": "A", "v": "long"})), [": fits none of the forms that are allowed here"]);
}

#[test]
fn defaults_fill_what_is_absent_where_the_parent_is_there() {
    let node = node(
        "type: object
  properties:
    spec: {type: object, properties: {a: {type: string, default: x}, n: {type: string, nullable: true, default: y}, m: {type: object, default: {}, properties: {k: {type: integer, default: 1}}}, d: {type: string}}}
    list: {type: array, items: {type: object, properties: {a: {type: string, default: z}}}}
    map: {type: object, additionalProperties: {type: object, properties: {a: {type: string, default: w}}}}",
    );
    for (value, want) in [
        (json!({}), json!({})),
        (json!({"spec": {}}), json!({"spec": {"a": "x", "n": "y", "m": {"k": 1}}})),
        (
            json!({"spec": {"a": null, "n": null, "m": {"k": 2}, "d": null}}),
            json!({"spec": {"a": "x", "n": null, "m": {"k": 2}}}),
        ),
        (json!({"list": [{}, null, 1]}), json!({"list": [{"a": "z"}, null, 1]})),
        (json!({"map": {"x": {}, "y": null}}), json!({"map": {"x": {"a": "w"}}})),
        (json!({"unknown": null, "spec": []}), json!({"unknown": null, "spec": []})),
    ] {
        let mut filled = value.clone();
        default::fill(&node, &mut filled);
        assert_eq!(filled, want, "{value}");
    }
}

#[test]
fn rules_see_the_value_and_say_where_and_why() {
    let yaml = "type: object
  x-kubernetes-validations:
    - {rule: 'self.a < self.b', message: a must be less than b, fieldPath: .a, reason: FieldValueForbidden}
    - {rule: 'self.b < 9', messageExpression: '\"b is \" + string(self.b)'}
    - {rule: '!has(self.namespace) || self.__namespace__ != \"x\"'}
  properties: {a: {type: integer}, b: {type: integer}, namespace: {type: string}}";
    let yaml = yaml.replace("has(self.namespace)", "has(self.__namespace__)");
    assert_eq!(found(&yaml, &json!({"a": 1, "b": 2})), Vec::<String>::new());
    assert_eq!(
        found(&yaml, &json!({"a": 9, "b": 9, "namespace": "x"})),
        [
            ".a: a must be less than b".trim_start_matches('.'),
            ": b is 9",
            ": failed rule: !has(self.__namespace__) || self.__namespace__ != \"x\"",
        ]
    );
    let mut findings = Findings::default();
    check(&node(&yaml), &json!({"a": 2, "b": 1}), None, &mut findings);
    assert_eq!(findings.into_problems()[0].cause, Cause::Forbidden);
}

#[test]
fn a_rule_waits_for_the_structure_below_it_and_for_nothing_else() {
    let yaml = "type: object
  properties:
    a: {type: array, maxItems: 2, items: {type: integer}, x-kubernetes-validations: [{rule: 'self.all(x, x > 0)', message: above zero}]}
    b: {type: array, maxItems: 2, items: {type: integer}, x-kubernetes-validations: [{rule: 'self.all(x, x > 0)', message: above zero}]}
  x-kubernetes-validations: [{rule: 'size(self.a) == size(self.b)', message: as many}]";
    assert_eq!(
        found(yaml, &json!({"a": ["text"], "b": [0]})),
        ["a[0]: must be a whole number, not a string", "b: above zero"]
    );
    assert_eq!(found(yaml, &json!({"a": [0, 1], "b": [1]})), ["a: above zero", ": as many"]);
    assert_eq!(found(yaml, &json!({"a": [0, 0, 0], "b": [1]})), ["a: must have at most 2 items, not 3"]);
}

#[test]
fn a_rule_that_fails_refuses_the_object() {
    let missing =
        "{type: object, properties: {a: {type: string}}, x-kubernetes-validations: [{rule: 'self.a == \"x\"'}]}";
    assert_eq!(found(missing, &json!({})), [": failed rule: self.a == \"x\""]);
    let unknown = "{type: object, x-kubernetes-validations: [{rule: 'nobody(self)', message: fine}]}";
    assert_eq!(found(unknown, &json!({})), [": the rule cannot be evaluated: nobody(self)"]);
    let length = "{type: string, x-kubernetes-validations: [{rule: 'size(self) == 1 && self.size() == 1'}]}";
    assert_eq!(found(length, &json!("ä")), Vec::<String>::new());
    let number = "{type: object, x-kubernetes-validations: [{rule: '1 + 1'}]}";
    assert_eq!(found(number, &json!({})), [": the rule says neither true nor false: 1 + 1"]);
    let broken = "{type: object, x-kubernetes-validations: [{rule: '1 +'}]}";
    assert!(found(broken, &json!({}))[0].starts_with(": the rule cannot be read: `1 +`"));
    let large = "{type: array, items: {type: integer}, x-kubernetes-validations: [{rule: 'true'}]}";
    assert_eq!(found(large, &json!(vec![0; cel::VALUES_MAX])), [": too large for the rules that apply here"]);
}

#[test]
fn transition_rules_compare_with_what_was_there() {
    let yaml = "type: object
  properties:
    fixed: {type: string, x-kubernetes-validations: [{rule: self == oldSelf, message: never changes}]}
    once:
      type: boolean
      x-kubernetes-validations: [{rule: '!oldSelf.hasValue() || oldSelf.value() == self', optionalOldSelf: true, message: set once}]
    born: {type: boolean, x-kubernetes-validations: [{rule: 'oldSelf.hasValue() || self', optionalOldSelf: true, message: begins true}]}
    list:
      type: array
      x-kubernetes-list-type: map
      x-kubernetes-list-map-keys: [name]
      items:
        type: object
        required: [name]
        properties: {name: {type: string}, v: {type: integer, x-kubernetes-validations: [{rule: self >= oldSelf, message: never shrinks}]}}
    heap: {type: array, items: {type: integer, x-kubernetes-validations: [{rule: self >= oldSelf, message: no one to compare with}]}}";
    let node = node(yaml);
    let old = json!({
        "fixed": "a", "once": true, "list": [{"name": "x", "v": 5}, {"name": "y", "v": 1}], "heap": [9],
    });
    let new = json!({
        "fixed": "b", "once": false, "born": false, "list": [{"name": "y", "v": 2}, {"name": "x", "v": 4}, {"name": "z", "v": 0}], "heap": [1],
    });
    assert_eq!(found_between(&node, &new, None), ["born: begins true"]);
    assert_eq!(
        found_between(&node, &new, Some(&old)),
        ["born: begins true", "fixed: never changes", "list[1].v: never shrinks", "once: set once"]
    );
    assert_eq!(found_between(&node, &old, Some(&old)), Vec::<String>::new());
}

#[test]
fn what_was_there_before_cannot_break_a_rule() {
    let yaml = "{type: object, properties: {a: {type: integer}}, x-kubernetes-validations: [{rule: 'self.a >= oldSelf.a', message: never shrinks}]}";
    for old in [json!(null), json!([]), json!({"a": "text"}), json!({})] {
        let said = found_between(&node(yaml), &json!({"a": 1}), Some(&old));
        assert!(said.len() <= 1, "{said:?}");
    }
}
