//! Names with values, as OTLP has them; and what is said of this process.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::redact;

/// The name of the service, unless the environment has another.
const SERVICE: &str = "appsync-bridge";

/// A text, without the secrets in it.
pub(super) fn text(name: &str, value: &str) -> KeyValue {
    with(name, Value::StringValue(redact::clean(value).into_owned()))
}

/// A number.
pub(super) fn number(name: &str, value: i64) -> KeyValue {
    with(name, Value::IntValue(value))
}

fn with(name: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

/// This process: what `set` says, which outdoes what is known.
pub(super) fn resource(set: &[(String, String)]) -> Resource {
    let id = uuid::Uuid::new_v4().to_string();
    let known = [
        ("service.name", SERVICE),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", &id),
    ];
    let known = known.into_iter().filter(|(name, _)| set.iter().all(|(other, _)| other != name));
    let set = set.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let attributes = known.chain(set).map(|(name, value)| text(name, value)).collect();
    Resource { attributes, ..Resource::default() }
}

/// What made the numbers and the spans.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "appsync_bridge".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(resource: &Resource) -> Vec<(String, String)> {
        let text = |pair: &KeyValue| match pair.value.clone().unwrap().value {
            Some(Value::StringValue(text)) => (pair.key.clone(), text),
            other => panic!("{other:?}"),
        };
        resource.attributes.iter().map(text).collect()
    }

    #[test]
    fn the_environment_outdoes_what_is_known() {
        let plain = texts(&resource(&[]));
        assert_eq!(plain[0], ("service.name".to_owned(), SERVICE.to_owned()));
        assert_eq!(plain.len(), 3);
        assert_ne!(texts(&resource(&[]))[2], plain[2], "each process is another instance");
        let set = [("service.name", "relay"), ("k8s.pod.name", "p-0")];
        let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let with = texts(&resource(&set));
        assert_eq!(with.len(), 4);
        assert!(set.iter().all(|pair| with.contains(pair)), "{with:?}");
    }
}
