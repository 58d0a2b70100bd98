use serde_json::json;

use super::{super::tests::tiny, *};

fn refused(yaml: &str) -> String {
    tiny(yaml).expect_err(yaml).to_string()
}

#[test]
fn a_definition_that_says_what_the_engine_does_not_know_is_refused() {
    for (yaml, want) in [
        ("{type: string, maxLenght: 3}", "Tiny: `maxLenght` is not known for type `string`"),
        ("{type: string, maximum: 3}", "Tiny: `maximum` is not known for type `string`"),
        ("{type: text}", "Tiny: `text` is not a type"),
        ("{type: int-or-string}", "Tiny: `type` is not the name of a type"),
        ("{description: nothing}", "Tiny: has no `type`"),
        ("{type: string, format: colour}", "Tiny: `colour` is not a format"),
        ("{type: string, maxLength: -1}", "Tiny: `maxLength` is not a size"),
        ("{type: object, properties: {a: {type: array}}}", "Tiny.a: a list says what its `items` are"),
        ("{type: object, required: [a]}", "Tiny: `a` is required and not a property"),
        ("{$ref: Nobody}", "Tiny: `Nobody` is not defined"),
        ("{type: boolean, x-kubernetes-validations: [{message: no}]}", "Tiny: a rule without `rule`"),
        ("{type: boolean, x-kubernetes-validations: [{rule: self, cause: x}]}", "Tiny: `cause` is not part of a rule"),
        ("{type: object, x-kubernetes-patch-strategy: glue}", "Tiny: `glue` is not a patch strategy"),
        ("{type: object, x-kubernetes-map-type: solid}", "Tiny: `x-kubernetes-map-type` is `granular` or `atomic`"),
        (
            "{type: array, items: {type: string}, x-kubernetes-list-type: map}",
            "Tiny: `x-kubernetes-list-type` and `x-kubernetes-list-map-keys` do not fit",
        ),
        (
            "{type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [a], items: {type: object, properties: {a: {type: string}}}}",
            "Tiny: the key `a` is neither required nor has it a default",
        ),
    ] {
        assert_eq!(refused(yaml), want, "{yaml}");
    }
}

#[test]
fn a_definition_that_is_part_of_itself_is_refused() {
    let direct = refused("{type: object, properties: {again: {$ref: Tiny}}}");
    assert_eq!(direct, "Tiny.again: `Tiny` is part of itself");
    let laid_over = refused("{type: object, properties: {again: {$ref: Tiny, description: more}}}");
    assert_eq!(laid_over, "Tiny.again: `Tiny` is part of itself");
    assert_eq!(refused("{$ref: Tiny, description: more}"), "Tiny: `Tiny` is part of itself");
    let round = "{$ref: Other, description: a}\nOther: {$ref: Tiny, description: b}";
    assert!(refused(round).ends_with("is part of itself"), "{}", refused(round));
}

#[test]
fn a_name_defined_twice_is_refused() {
    let files = [("a.yaml", "A: {type: string}"), ("b.yaml", "A: {type: string}")];
    assert_eq!(Library::load(&files).unwrap_err().to_string(), "A: defined twice, again in b.yaml");
}

#[test]
fn what_stands_beside_a_reference_is_laid_over_it() {
    let node = tiny(
        "{$ref: Base, description: mine, maxProperties: 3, required: [b], properties: {b: {type: string}}, x-kubernetes-validations: [{rule: '2 == 2'}]}
Base: {type: object, description: base, minProperties: 1, required: [a], properties: {a: {type: string}}, x-kubernetes-validations: [{rule: '1 == 1'}]}",
    )
    .unwrap();
    assert_eq!(
        node.to_openapi(),
        json!({
            "type": "object", "description": "mine", "minProperties": 1, "maxProperties": 3, "required": ["a", "b"],
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": "1 == 1"}, {"rule": "2 == 2"}],
        })
    );
}

#[test]
fn a_bare_reference_is_shared() {
    let node = tiny("{type: object, properties: {a: {$ref: B}, b: {$ref: B}}}\nB: {type: string}").unwrap();
    let super::super::Form::Object { properties, .. } = &node.form else { panic!("an object") };
    assert!(Arc::ptr_eq(&properties["a"], &properties["b"]));
}
