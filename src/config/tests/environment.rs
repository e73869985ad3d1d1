//! Strings that come from the environment.

use super::*;

#[test]
fn strings_come_from_the_environment() {
    let config = good(&with("source.plant", "client_id = { env = \"POD\" }"));
    let mqtt = of_mqtt(&config.sources[0].kind);
    assert_eq!(mqtt.client_id, "pod-0");
    let config = good(&with("source.plant", "client_id = { env = \"NONE\", default = \"d\" }"));
    let mqtt = of_mqtt(&config.sources[0].kind);
    assert_eq!(mqtt.client_id, "d");
    assert_eq!(kinds(&with("source.plant", "client_id = { env = \"NONE\" }")), [Kind::Unresolved]);
    assert_eq!(kinds(&with("source.plant", "client_id = { env = \"EMPTY\" }")), [Kind::BadValue]);
    // The same checks as a literal, without showing what may be a secret.
    let problems = read(&with("api.main", "timeout = { env = \"KEY\" }")).unwrap_err().to_string();
    assert!(problems.contains("the value of `$KEY` is not a duration"), "{problems}");
    assert!(!problems.contains("da2"), "{problems}");
}

/// As if it were written: by what asks before it is read, too.
#[test]
fn a_type_comes_from_the_environment() {
    let text = |kind: &str, dead_letter: &str, more: &str| {
        format!(
            "{}[source.shop]\ntype = {kind}\nbrokers = \"kafka\"\ngroup = \"g\"\ntopics = \"a.b\"\n{more}\n\
             [route.all]\nfrom = \"shop\"\ntopic = \"a.{{what}}\"\nchannel = \"/a/{{what}}\"\n{dead_letter}\n",
            GOOD.split("[source").next().unwrap()
        )
    };
    let rejects = |kind: &str| {
        format!("[dead_letter.d]\ntype = {kind}\nsource = \"shop\"\ntopic = \"rejects\"")
    };
    let variable = "{ env = \"KIND\", default = \"kafka\" }";
    let config = good(&text(variable, &rejects(variable), ""));
    assert_eq!(config.dead_letters["d"].word(), "kafka");
    assert!(config.sources[0].kind.kafka().is_some());
    let rack = "options = { \"client.rack\" = { env = \"POD\" } }";
    let config = good(&text(variable, "", rack));
    let kafka = config.sources[0].kind.kafka().unwrap();
    assert_eq!(kafka.options, [("client.rack".to_owned(), "pod-0".to_owned())]);
    let unset = read(&text(variable, "", &rack.replace("POD", "NONE"))).unwrap_err().to_string();
    assert!(unset.contains("`client.rack` is to come from `$NONE`, which is not set"), "{unset}");

    assert_eq!(kinds(&text("{ env = \"NONE\" }", &rejects("\"kafka\""), "")), [Kind::Unresolved]);
    assert_eq!(kinds(&text(variable, "dead_letter = \"source\"", "")), [Kind::Impossible]);
    let levels = text(variable, "", "").replace("a.{what}", "a/{what}");
    assert_eq!(kinds(&levels), [Kind::BadTemplate]);
}
