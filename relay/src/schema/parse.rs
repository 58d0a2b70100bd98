//! One definition's keywords → a node.
//!
//! A definition that says something this engine does not know is refused: a bound that is read over is no bound.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};

use super::{
    cel,
    load::{Loaded, Loader},
    node::{Form, Format, ListKind, Logic, Node, PatchStrategy, Pattern, Rule},
};

/// What a definition may say, beside [`TYPED_KEYWORDS`].
const KEYWORDS: &[&str] = &[
    "$ref",
    "type",
    "description",
    "default",
    "enum",
    "nullable",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "x-kubernetes-validations",
    "x-kubernetes-int-or-string",
    "x-kubernetes-patch-strategy",
    "x-kubernetes-patch-merge-key",
];

/// What a definition may say of values of one type.
const TYPED_KEYWORDS: &[(&str, &[&str])] = &[
    (
        "object",
        &[
            "properties",
            "required",
            "additionalProperties",
            "minProperties",
            "maxProperties",
            "x-kubernetes-map-type",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
        ],
    ),
    ("array", &["items", "minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"]),
    ("string", &["minLength", "maxLength", "pattern", "format"]),
    ("integer", &["minimum", "maximum", "format"]),
    ("number", &["minimum", "maximum", "format"]),
    ("boolean", &[]),
    ("int-or-string", &["pattern"]),
    // Nothing is said, or only that anything is kept.
    ("", &["x-kubernetes-preserve-unknown-fields"]),
];

type Fields = Map<String, Value>;

impl Loader<'_> {
    /// The node of `source`, whose `$ref` is resolved.
    pub(super) fn node(&mut self, source: &Value) -> Loaded<Node> {
        let fields = self.fields(source)?;
        match self.typed(fields)? {
            Some(form) => self.rest(fields, form),
            None if self.in_logic => {
                let form = self.form(fields, implied_type(fields, ""))?;
                self.rest(fields, form)
            }
            None => self.error("has no `type`"),
        }
    }

    /// A node of `allOf`, `anyOf`, `oneOf` or `not`, which may leave the type to what it is beside.
    fn branch(&mut self, source: &Value, beside: &str) -> Loaded<Arc<Node>> {
        let outer = std::mem::replace(&mut self.in_logic, true);
        let fields = self.fields(source)?;
        let form = match self.typed(fields)? {
            Some(form) => form,
            None => self.form(fields, implied_type(fields, beside))?,
        };
        let node = self.rest(fields, form)?;
        self.in_logic = outer;
        Ok(Arc::new(node))
    }

    fn fields<'a>(&self, source: &'a Value) -> Loaded<&'a Fields> {
        match source {
            Value::Object(fields) => Ok(fields),
            _ => self.error("a definition is an object"),
        }
    }

    fn rest(&mut self, fields: &Fields, form: Form) -> Loaded<Node> {
        Ok(Node {
            description: self.text(fields, "description")?.unwrap_or_default().trim().to_owned(),
            form,
            nullable: self.flag(fields, "nullable")?,
            default: fields.get("default").cloned(),
            enumeration: self.list(fields, "enum")?.to_vec(),
            rules: self.rules(fields)?,
            patch: self.patch(fields)?,
            logic: self.logic(fields)?,
        })
    }

    /// What the definition itself says that its type is, if it does.
    fn typed(&mut self, fields: &Fields) -> Loaded<Option<Form>> {
        let name = match fields.get("type") {
            _ if self.flag(fields, "x-kubernetes-int-or-string")? => "int-or-string",
            Some(Value::String(name)) if !["int-or-string", ""].contains(&name.as_str()) => name,
            Some(_) => return self.error("`type` is not the name of a type"),
            None if self.flag(fields, "x-kubernetes-preserve-unknown-fields")? => "",
            None => return Ok(None),
        };
        self.form(fields, name).map(Some)
    }

    fn form(&mut self, fields: &Fields, name: &str) -> Loaded<Form> {
        let Some((_, allowed)) = TYPED_KEYWORDS.iter().find(|(known, _)| *known == name) else {
            return self.error(format!("`{name}` is not a type"));
        };
        if let Some(other) =
            fields.keys().find(|key| !KEYWORDS.contains(&key.as_str()) && !allowed.contains(&key.as_str()))
        {
            return self.error(format!("`{other}` is not known for type `{name}`"));
        }
        Ok(match name {
            "object" => self.object(fields)?,
            "array" => self.array(fields)?,
            "string" => Form::Text {
                min_length: self.size(fields, "minLength")?.unwrap_or(0),
                max_length: self.size(fields, "maxLength")?,
                pattern: self.pattern(fields)?,
                format: self.format(fields)?,
            },
            "integer" => Form::Integer {
                min: self.whole(fields, "minimum")?,
                max: self.whole(fields, "maximum")?,
                format: self.format(fields)?,
            },
            "number" => Form::Number {
                min: fields.get("minimum").and_then(Value::as_f64),
                max: fields.get("maximum").and_then(Value::as_f64),
            },
            "boolean" => Form::Boolean,
            "int-or-string" => Form::IntOrString { pattern: self.pattern(fields)? },
            _ => Form::Anything,
        })
    }

    fn object(&mut self, fields: &Fields) -> Loaded<Form> {
        let mut properties = BTreeMap::new();
        for (name, source) in self.map(fields, "properties")?.into_iter().flatten() {
            properties.insert(name.clone(), self.at(name, |loader| loader.child(source))?);
        }
        let required = self.texts(fields, "required")?;
        if let Some(name) = required.iter().find(|name| fields.contains_key("type") && !properties.contains_key(*name))
        {
            return self.error(format!("`{name}` is required and not a property"));
        }
        let additional = match fields.get("additionalProperties") {
            None => None,
            Some(source) => Some(self.at("[]", |loader| loader.child(source))?),
        };
        Ok(Form::Object {
            properties,
            required,
            additional,
            open: self.flag(fields, "x-kubernetes-preserve-unknown-fields")?,
            atomic: match self.text(fields, "x-kubernetes-map-type")?.as_deref() {
                None | Some("granular") => false,
                Some("atomic") => true,
                Some(_) => return self.error("`x-kubernetes-map-type` is `granular` or `atomic`"),
            },
            embedded: self.flag(fields, "x-kubernetes-embedded-resource")?,
            min: self.size(fields, "minProperties")?.unwrap_or(0),
            max: self.size(fields, "maxProperties")?,
        })
    }

    fn array(&mut self, fields: &Fields) -> Loaded<Form> {
        let Some(items) = fields.get("items") else { return self.error("a list says what its `items` are") };
        let items = self.at("[]", |loader| loader.child(items))?;
        let keys = self.texts(fields, "x-kubernetes-list-map-keys")?;
        let kind = match (self.text(fields, "x-kubernetes-list-type")?.as_deref(), keys.is_empty()) {
            (None | Some("atomic"), true) => ListKind::Atomic,
            (Some("set"), true) => ListKind::Set,
            (Some("map"), false) => ListKind::Map(keys),
            _ => return self.error("`x-kubernetes-list-type` and `x-kubernetes-list-map-keys` do not fit"),
        };
        if let (ListKind::Map(keys), Form::Object { properties, required, .. }) = (&kind, &items.form) {
            // As Kubernetes demands of a CustomResourceDefinition: every item can be told apart.
            let told =
                |key: &String| properties.get(key).is_some_and(|node| required.contains(key) || node.default.is_some());
            if let Some(key) = keys.iter().find(|key| !told(key)) {
                return self.error(format!("the key `{key}` is neither required nor has it a default"));
            }
        }
        Ok(Form::List {
            items,
            kind,
            min: self.size(fields, "minItems")?.unwrap_or(0),
            max: self.size(fields, "maxItems")?,
        })
    }

    fn rules(&mut self, fields: &Fields) -> Loaded<Vec<Rule>> {
        let mut rules = Vec::new();
        for source in self.list(fields, "x-kubernetes-validations")? {
            let source = self.fields(source)?;
            let known = ["rule", "message", "messageExpression", "fieldPath", "reason", "optionalOldSelf"];
            if let Some(other) = source.keys().find(|key| !known.contains(&key.as_str())) {
                return self.error(format!("`{other}` is not part of a rule"));
            }
            let Some(rule) = self.text(source, "rule")? else { return self.error("a rule without `rule`") };
            rules.push(Rule {
                rule,
                message: self.text(source, "message")?,
                message_expression: self.text(source, "messageExpression")?,
                field_path: self.text(source, "fieldPath")?,
                reason: self.text(source, "reason")?,
                optional_old_self: self.flag(source, "optionalOldSelf")?,
                compiled: cel::Compiled::default(),
            });
        }
        Ok(rules)
    }

    fn patch(&mut self, fields: &Fields) -> Loaded<Option<PatchStrategy>> {
        let merge_key = self.text(fields, "x-kubernetes-patch-merge-key")?;
        let Some(strategy) = self.text(fields, "x-kubernetes-patch-strategy")? else {
            return if merge_key.is_some() { self.error("a merge key without a patch strategy") } else { Ok(None) };
        };
        let mut patch = PatchStrategy { merge_key, ..PatchStrategy::default() };
        for word in strategy.split(',') {
            match word {
                "merge" => patch.merge = true,
                "retainKeys" => patch.retain_keys = true,
                "replace" => {}
                _ => return self.error(format!("`{word}` is not a patch strategy")),
            }
        }
        Ok(Some(patch))
    }

    fn logic(&mut self, fields: &Fields) -> Loaded<Logic> {
        let beside = fields.get("type").and_then(Value::as_str).unwrap_or_default();
        let mut branches = |key: &str| -> Loaded<Vec<Arc<Node>>> {
            let sources = self.list(fields, key)?;
            sources.iter().map(|source| self.at(key, |loader| loader.branch(source, beside))).collect()
        };
        let (all_of, any_of, one_of) = (branches("allOf")?, branches("anyOf")?, branches("oneOf")?);
        let not = match fields.get("not") {
            Some(source) => Some(self.at("not", |loader| loader.branch(source, beside))?),
            None => None,
        };
        Ok(Logic { all_of, any_of, one_of, not })
    }

    fn text(&self, fields: &Fields, key: &str) -> Loaded<Option<String>> {
        match fields.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => self.error(format!("`{key}` is not a string")),
        }
    }

    fn flag(&self, fields: &Fields, key: &str) -> Loaded<bool> {
        match fields.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => self.error(format!("`{key}` is not true or false")),
        }
    }

    fn size(&self, fields: &Fields, key: &str) -> Loaded<Option<usize>> {
        match fields.get(key).map(|value| value.as_u64().and_then(|size| usize::try_from(size).ok())) {
            None => Ok(None),
            Some(Some(size)) => Ok(Some(size)),
            Some(None) => self.error(format!("`{key}` is not a size")),
        }
    }

    fn whole(&self, fields: &Fields, key: &str) -> Loaded<Option<i64>> {
        match fields.get(key).map(Value::as_i64) {
            None => Ok(None),
            Some(Some(number)) => Ok(Some(number)),
            Some(None) => self.error(format!("`{key}` is not a whole number")),
        }
    }

    fn list<'a>(&self, fields: &'a Fields, key: &str) -> Loaded<&'a [Value]> {
        match fields.get(key) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => self.error(format!("`{key}` is not a list")),
        }
    }

    fn map<'a>(&self, fields: &'a Fields, key: &str) -> Loaded<Option<&'a Fields>> {
        match fields.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => self.error(format!("`{key}` is not an object")),
        }
    }

    fn texts(&self, fields: &Fields, key: &str) -> Loaded<Vec<String>> {
        let texts = self.list(fields, key)?.iter().map(|text| text.as_str().map(str::to_owned)).collect();
        match texts {
            Some(texts) => Ok(texts),
            None => self.error(format!("`{key}` is not a list of strings")),
        }
    }

    fn pattern(&self, fields: &Fields) -> Loaded<Option<Pattern>> {
        Ok(self.text(fields, "pattern")?.map(|source| Pattern::new(&source)))
    }

    fn format(&self, fields: &Fields) -> Loaded<Option<Format>> {
        let Some(name) = self.text(fields, "format")? else { return Ok(None) };
        match Format::from_name(&name) {
            Some(format) => Ok(Some(format)),
            None => self.error(format!("`{name}` is not a format")),
        }
    }
}

/// The type that the keywords of a branch imply, or that of the node it belongs to.
fn implied_type<'a>(fields: &Fields, beside: &'a str) -> &'a str {
    let says = |name: &str| {
        let (_, words) = TYPED_KEYWORDS.iter().find(|(known, _)| *known == name).unwrap_or(&("", &[]));
        words.iter().any(|word| fields.contains_key(*word))
    };
    // Bounds alone do not tell an integer from a number, nor a string's pattern from that of an int-or-string.
    match beside {
        "" => ["object", "array", "string", "number"].into_iter().find(|name| says(name)).unwrap_or(""),
        beside => beside,
    }
}
