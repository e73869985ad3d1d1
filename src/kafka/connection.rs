//! The way to a cluster as librdkafka's properties: the same for those who read and those who write.

use rdkafka::ClientConfig;
use rdkafka::config::{FromClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::BuildError;
use crate::config::Secret;
use crate::config::kafka::{KafkaConfig, Sasl, Scram};
use crate::outbound::tls;
use crate::probe::Step;

/// What the user may override.
const DEFAULTS: [(&str, &str); 2] =
    [("client.id", "appsync-bridge"), ("reconnect.backoff.max.ms", "10000")];

/// Begins the advice behind a certificate that does not hold.
const ADVICE: &str = ", verify that ssl.ca.location";

const PASSWORD: &str = "sasl.password";

const FIXED: [(&str, &str); 2] = [
    ("enable.ssl.certificate.verification", "true"),
    ("ssl.endpoint.identification.algorithm", "https"),
];

/// The properties for `config`, where its `options` stand above `defaults` and below `fixed`; reads the
/// files of certificates.
pub fn connection(
    config: &KafkaConfig,
    defaults: &[(&str, &str)],
    fixed: &[(&str, &str)],
) -> Result<ClientConfig, BuildError> {
    let mut client = ClientConfig::new();
    client.set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in DEFAULTS.iter().chain(defaults) {
        client.set(*name, *value);
    }
    for (name, value) in &config.options {
        client.set(name, value);
    }
    for (name, value) in FIXED.iter().chain(fixed) {
        client.set(*name, *value);
    }
    client.set("bootstrap.servers", config.brokers.join(","));
    secure(config, &mut client)?;
    Ok(client)
}

fn secure(config: &KafkaConfig, client: &mut ClientConfig) -> Result<(), BuildError> {
    let protocol = match (&config.tls, &config.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    if let Some(tls) = &config.tls {
        // The system's, and one more: librdkafka would trust either.
        client.set("ssl.ca.pem", tls::trusted_pem(tls.ca_file.as_deref())?);
        if let Some((certificate, key)) = &tls.identity {
            // Read here: librdkafka would wait for a file that does not answer.
            let (certificate, key) = tls::identity_pem(certificate, key)?;
            client.set("ssl.certificate.pem", certificate).set("ssl.key.pem", key);
        }
    }
    let mechanism = match &config.sasl {
        None => return Ok(()),
        Some(Sasl::Plain(_)) => "PLAIN",
        Some(Sasl::Scram(Scram::Sha256, _)) => "SCRAM-SHA-256",
        Some(Sasl::Scram(Scram::Sha512, _)) => "SCRAM-SHA-512",
        Some(Sasl::OAuthBearer(_) | Sasl::AwsMskIam { .. }) => "OAUTHBEARER",
    };
    client.set("sasl.mechanism", mechanism);
    if let Some(Sasl::Plain(login) | Sasl::Scram(_, login)) = &config.sasl {
        client.set("sasl.username", &login.username);
    }
    if let Some(password) = password(config) {
        client.set(PASSWORD, &*password.reveal());
    }
    Ok(())
}

/// The password that `config` logs in with.
pub fn password(config: &KafkaConfig) -> Option<&Secret> {
    match &config.sasl {
        Some(Sasl::Plain(login) | Sasl::Scram(_, login)) => Some(&login.password),
        _ => None,
    }
}

/// `client` with another password: a file may have a new one since the last client was made, which keeps
/// the one that it was made with. Certificates stay those that were read at the start.
pub fn with_password(client: &ClientConfig, password: Option<&str>) -> ClientConfig {
    let mut client = client.clone();
    if let Some(password) = password {
        client.set(PASSWORD, password);
    }
    client
}

/// Lets librdkafka see what it would say of the properties; connects to nothing.
pub fn check<C: FromClientConfig>(client: &ClientConfig) -> Result<(), BuildError> {
    let mut client = client.clone();
    client.remove("bootstrap.servers");
    client.remove("group.id");
    client.remove("group.instance.id");
    client.remove("test.mock.num.brokers");
    // The log callback of the real one tells what matters.
    client.set_log_level(RDKafkaLogLevel::Emerg);
    let strategy = client.get(STRATEGY).unwrap_or_default();
    let told = |error| {
        let why = words(&error);
        // Of others `range` is a word like any.
        let told = if why.contains(STRATEGY) { without(&why, strategy) } else { why };
        BuildError::Settings(told)
    };
    client.create::<C>().map(drop).map_err(told)
}

/// The property whose value librdkafka says only when a client is made.
const STRATEGY: &str = "partition.assignment.strategy";

/// What librdkafka says, without its own names for where it was.
pub fn words(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientCreation(why) => why.clone(),
        // The value may be that of a variable, and a secret.
        KafkaError::ClientConfig(_, why, name, value) => {
            format!("`{name}`: {}", without(why, value))
        }
        other => other.rdkafka_error_code().map_or_else(|| other.to_string(), of_code),
    }
}

/// The text without the value, and the items of one that is a list; digits and what is as short may stand in it by themselves.
fn without(why: &str, value: &str) -> String {
    let mut parts: Vec<&str> = value.split(',').chain([value]).map(str::trim).collect();
    parts.retain(|part| part.len() >= 4 && !part.bytes().all(|b| b.is_ascii_digit()));
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts.iter().fold(why.to_owned(), |why, part| why.replace(part, "…"))
}

/// The step of a look that ends with an error.
pub fn step(code: RDKafkaErrorCode) -> Step {
    use RDKafkaErrorCode as Code;
    match code {
        Code::SSL => Step::Tls,
        Code::Authentication | Code::SaslAuthenticationFailed => Step::Login,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed => Step::Allowed,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => Step::Exists,
        _ => Step::Reach,
    }
}

/// What an error code says, in words.
pub fn of_code(code: RDKafkaErrorCode) -> String {
    let text = code.to_string();
    let words = text.split_once(" (").and_then(|(_, words)| words.strip_suffix(')'));
    plain(words.unwrap_or(&text)).to_owned()
}

/// An error of librdkafka without its word for where it comes from, and without advice for settings that
/// have other names here.
pub fn plain(text: &str) -> &str {
    let text = text.split_once(ADVICE).map_or(text, |(what, _)| what);
    text.strip_prefix("Broker: ").or_else(|| text.strip_prefix("Local: ")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_in_plain_words() {
        let code = RDKafkaErrorCode::UnknownTopicOrPartition;
        assert_eq!(of_code(code), "Unknown topic or partition");
        assert_eq!(of_code(RDKafkaErrorCode::AllBrokersDown), "All broker connections are down");
        let tls = "ssl://a:1/bootstrap: broker certificate could not be verified, verify that \
                   ssl.ca.location is correctly configured (after 7ms in state SSL_HANDSHAKE)";
        assert_eq!(
            without("`a.b`: no value hunter22 of 1 to 1000", "hunter22"),
            "`a.b`: no value … of 1 to 1000"
        );
        assert_eq!(
            without("Unsupported strategy: hunter22", "range, hunter22"),
            "Unsupported strategy: …"
        );
        assert_eq!(without("0 is not 1 to 1000", "0"), "0 is not 1 to 1000");
        assert!(plain(tls).ends_with("broker certificate could not be verified"));
    }
}
