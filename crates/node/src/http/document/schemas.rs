//! What the derived schemas leave unsaid, or say wrongly.

use std::collections::BTreeMap;

use utoipa::Number;
use utoipa::openapi::schema::{
    AdditionalProperties, AllOf, ArrayItems, KnownFormat, Object, Schema, SchemaFormat, SchemaType,
    Type,
};
use utoipa::openapi::{Components, Ref, RefOr};

/// A flattened field is written as a schema beside the fields of its struct. One
/// that allows no others would not allow these either: what both have is put
/// into one.
pub(super) fn merge_flattened(components: &mut Components) {
    let named = components.schemas.clone();
    for schema in components.schemas.values_mut() {
        if let RefOr::T(Schema::AllOf(all)) = schema
            && let Some(merged) = merged(all, &named)
        {
            *schema = RefOr::T(Schema::Object(merged));
        }
    }
}

/// `None` where nothing in it is closed to others.
fn merged(all: &AllOf, named: &BTreeMap<String, RefOr<Schema>>) -> Option<Object> {
    let object = |schema: &RefOr<Schema>| match schema {
        RefOr::T(Schema::Object(object)) => Some(object.clone()),
        _ => None,
    };
    let parts: Vec<Object> = all
        .items
        .iter()
        .map(|item| match item {
            RefOr::Ref(Ref { ref_location, .. }) => {
                object(named.get(ref_location.rsplit('/').next()?)?)
            }
            item => object(item),
        })
        .collect::<Option<_>>()?;
    let closed = |part: &Object| {
        matches!(part.additional_properties.as_deref(), Some(AdditionalProperties::FreeForm(false)))
    };
    if !parts.iter().any(closed) {
        return None;
    }
    let mut whole = Object::new();
    whole.description.clone_from(&all.description);
    for part in parts {
        whole.properties.extend(part.properties);
        whole.required.extend(part.required);
    }
    Some(whole)
}

/// Says of each unsigned integer how large it may be. JSON Schema knows none of
/// the formats that would.
pub(super) fn bound(schema: &mut RefOr<Schema>) {
    let RefOr::T(schema) = schema else { return };
    match schema {
        Schema::Object(object) => {
            let most = match &object.format {
                Some(SchemaFormat::KnownFormat(KnownFormat::UInt8)) => Some(usize::from(u8::MAX)),
                Some(SchemaFormat::KnownFormat(KnownFormat::UInt16)) => Some(usize::from(u16::MAX)),
                Some(SchemaFormat::KnownFormat(KnownFormat::UInt32)) => u32::MAX.try_into().ok(),
                Some(SchemaFormat::KnownFormat(KnownFormat::UInt64)) => u64::MAX.try_into().ok(),
                _ => None,
            };
            if object.maximum.is_none() && object.exclusive_maximum.is_none() {
                object.maximum = most.map(Number::UInt);
            }
            object.properties.values_mut().for_each(bound);
            if let Some(AdditionalProperties::RefOr(schema)) =
                object.additional_properties.as_deref_mut()
            {
                bound(schema);
            }
        }
        Schema::Array(array) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                bound(items);
            }
        }
        Schema::OneOf(of) => of.items.iter_mut().for_each(bound),
        Schema::AllOf(of) => of.items.iter_mut().for_each(bound),
        Schema::AnyOf(of) => of.items.iter_mut().for_each(bound),
        _ => {}
    }
}

/// A parameter is there or not: `null` would be a word.
pub(super) fn never_null(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema
        && let SchemaType::Array(types) = &mut object.schema_type
    {
        types.retain(|one| *one != Type::Null);
        if let [only] = &types[..] {
            object.schema_type = SchemaType::Type(only.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::openapi;

    #[test]
    fn what_is_flattened_allows_all_its_fields() {
        let document = serde_json::to_value(openapi()).unwrap();
        let state = &document["components"]["schemas"]["VmLimitsState"];
        assert!(state.get("allOf").is_none() && state.get("additionalProperties").is_none());
        for field in ["cpuQuotaPercent", "ioWriteIops", "layout", "notApplied", "uid"] {
            assert!(state["properties"].get(field).is_some(), "{field}: {state}");
        }
        let required = state["required"].as_array().unwrap();
        assert!(required.contains(&"layout".into()) && !required.contains(&"pids".into()));
    }

    #[test]
    fn every_unsigned_integer_is_bounded_and_no_parameter_is_null() {
        fn look(value: &Value, path: &str) {
            if let Some(format) = value["format"].as_str()
                && format.starts_with("uint")
            {
                let bounded = value.get("maximum").or(value.get("exclusiveMaximum"));
                assert!(bounded.is_some(), "{path}: {value}");
            }
            match value {
                Value::Object(fields) => {
                    fields.iter().for_each(|(key, value)| look(value, &format!("{path}/{key}")));
                }
                Value::Array(items) => items.iter().for_each(|item| look(item, path)),
                _ => {}
            }
        }
        let document = serde_json::to_value(openapi()).unwrap();
        look(&document, "");
        for operations in document["paths"].as_object().unwrap().values() {
            for operation in operations.as_object().unwrap().values() {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let kind = &parameter["schema"]["type"];
                    assert!(!kind.is_array(), "{parameter}");
                }
            }
        }
    }
}
