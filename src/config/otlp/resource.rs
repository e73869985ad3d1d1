//! What the environment says of this process, in the variables of OpenTelemetry.

use percent_encoding::percent_decode_str;

use crate::config::reader::{Kind, Ledger, Problem, Table};

/// What the environment says of this process: a comma-separated list of `name=value`, percent-encoded, and the name
/// of the service, which outdoes it. What is not well formed is left out as a whole, as the specification asks, with
/// a warning.
pub(super) fn of(ledger: &Ledger<'_>, table: &Table<'_>) -> Vec<(String, String)> {
    let set = |name| ledger.environment.text(name).ok().filter(|text| !text.trim().is_empty());
    let listed = set("OTEL_RESOURCE_ATTRIBUTES").map(|text| {
        let pairs = text.split(',').map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            let name = name.trim();
            (!name.is_empty()).then(|| (name.to_owned(), value.into_owned()))
        });
        pairs.collect::<Option<Vec<_>>>()
    });
    if listed == Some(None) {
        let message = "`$OTEL_RESOURCE_ATTRIBUTES` is no list of `name=value`, and is left out";
        ledger.report(Problem::new(Kind::Warning, Some(table.span.clone()), message));
    }
    let mut resource = listed.flatten().unwrap_or_default();
    if let Some(name) = set("OTEL_SERVICE_NAME") {
        resource.retain(|(known, _)| known != "service.name");
        resource.push(("service.name".to_owned(), name.trim().to_owned()));
    }
    resource
}

#[cfg(test)]
mod tests {
    use crate::config::otlp::tests::read;

    #[test]
    fn the_environment_says_what_this_process_is() {
        let otlp = "[otlp]\nendpoint = \"http://localhost:4318\"";
        let pairs = |variables: &[(&str, &str)]| {
            let (config, warnings) = read(otlp, variables);
            (config.unwrap().resource, warnings.contains("OTEL_RESOURCE_ATTRIBUTES"))
        };
        let owned = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
        };
        let listed = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x, a.b = 1%2C2 ,c=");
        let all = [("service.name", "x"), ("a.b", "1,2"), ("c", "")];
        assert_eq!(pairs(&[listed]), (owned(&all), false));
        let named = [("a.b", "1,2"), ("c", ""), ("service.name", "y")];
        assert_eq!(pairs(&[listed, ("OTEL_SERVICE_NAME", " y ")]), (owned(&named), false));
        for broken in ["a", "a=1,", "=1", "a=%ff"] {
            assert_eq!(pairs(&[("OTEL_RESOURCE_ATTRIBUTES", broken)]), (vec![], true), "{broken}");
        }
        assert_eq!(pairs(&[("OTEL_RESOURCE_ATTRIBUTES", " ")]), (vec![], false));
    }
}
