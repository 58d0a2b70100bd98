use serde_json::{Value, json};
use underpass_shared::resource::kind::{KINDS, Kind};

use super::*;

#[test]
fn every_kind_has_a_schema_that_knows_its_metadata() {
    for info in KINDS {
        let Form::Object { properties, required, .. } = &of(info.kind).root().form else {
            panic!("{} is an object", info.name)
        };
        assert!(properties["metadata"].description.starts_with("The object's identity"), "{}", info.name);
        for name in ["apiVersion", "kind", "metadata"] {
            assert!(required.iter().any(|required| required == name), "{}: {name}", info.name);
        }
    }
}
