//! Errors of librdkafka in plain words, with hints. Pure.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::config::kafka::Sasl;
use crate::kafka::plain;

/// The remedy for an error, where its code tells.
pub(super) fn hint(code: Code, sasl: Option<&Sasl>) -> &'static str {
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed => match sasl {
            Some(Sasl::OAuthBearer(_)) => {
                "check `sasl`: the issuer and the client, and the claims that the broker expects in a token"
            }
            Some(Sasl::AwsMskIam { .. }) => {
                "check the AWS credentials, their permission for `kafka-cluster:Connect`, and the region"
            }
            _ => "check `sasl`: the user, the password and the mechanism",
        },
        Code::SSL => "check `tls`: its `ca_file` and certificate, and that the port is one for TLS",
        Code::Resolve => "check the names in `brokers`",
        Code::BrokerTransportFailure | Code::AllBrokersDown => {
            "check `brokers`, the network, and whether the port needs `tls`"
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic => {
            "check `topics`; a topic created later is subscribed to then"
        }
        Code::TopicAuthorizationFailed => "the user needs the permission (ACL) to read the topic",
        Code::GroupAuthorizationFailed => "the user needs the permission (ACL) to read the group",
        Code::FencedInstanceId => {
            "another bridge has the same `group_instance_id`: each needs one of its own"
        }
        Code::UnreleasedInstanceId => {
            "another bridge has the same `group_instance_id`, or had it when it was killed: \
             then its session has to end first"
        }
        Code::InconsistentGroupProtocol => {
            "the group's other members use another assignment strategy: see `protocol`"
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature => {
            "`protocol = \"consumer\"` needs Apache Kafka 4.0 or newer"
        }
        _ => "",
    }
}

/// Whether no broker can be reached, or the group is refused: nothing is consumed until that is over.
pub(super) fn is_total(code: Code) -> bool {
    matches!(code, Code::AllBrokersDown | Code::GroupAuthorizationFailed)
}

/// Whether librdkafka gives up without a fatal error: where a broker refuses a request for committed
/// offsets, or one partition of it ("offset", in the singular), it never retries, and does not read these partitions.
pub(super) fn is_final(reason: &str) -> bool {
    reason.starts_with("Failed to fetch committed offset")
}

/// The topic that `reason` says can't be read, as librdkafka words it, and why.
pub(super) fn missing_topic(code: Code, reason: &str) -> Option<(String, String)> {
    let of_topic = matches!(
        code,
        Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::TopicAuthorizationFailed
            | Code::InvalidTopic
    );
    let rest = reason.strip_prefix("Subscribed topic not available: ").filter(|_| of_topic)?;
    let (topic, why) = rest.split_once(": ")?;
    Some((topic.to_owned(), plain(why).to_owned()))
}

/// The code that fits the error: a failed TLS handshake may come as a failed transport.
pub(super) fn kind(code: Code, reason: &str) -> Code {
    let of_tls = reason.contains("SSL routines") || reason.contains("SSL handshake");
    if code == Code::BrokerTransportFailure && of_tls { Code::SSL } else { code }
}

/// A clause and its hint, in one line.
pub(super) fn with_hint(what: &str, hint: &str) -> String {
    if hint.is_empty() { what.to_owned() } else { format!("{what}; {hint}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_topic_is_named() {
        let reason = "Subscribed topic not available: orders: Broker: Unknown topic or partition";
        assert_eq!(
            missing_topic(Code::UnknownTopicOrPartition, reason),
            Some(("orders".into(), "Unknown topic or partition".into()))
        );
        assert_eq!(missing_topic(Code::AllBrokersDown, "1/1 brokers are down"), None);
    }

    #[test]
    fn committed_offsets_that_are_refused_are_asked_for_by_a_new_client() {
        for reason in [
            "Failed to fetch committed offsets for 3 partition(s) in group \"g\": Broker: Group authorization failed",
            "Failed to fetch committed offset for group \"g\" topic orders [3]: Broker: Topic authorization failed",
        ] {
            assert!(is_final(reason), "{reason}");
        }
        assert!(!is_final("Fetch from broker 1 failed: Broker: Topic authorization failed"));
    }

    #[test]
    fn a_handshake_that_failed_is_known_as_one() {
        let tls = "ssl://a:1/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate \
                   verify failed: broker certificate could not be verified";
        assert_eq!(kind(Code::BrokerTransportFailure, tls), Code::SSL);
        let refused = "a:1: Connect to ipv4#127.0.0.1:1 failed: Connection refused";
        assert_eq!(kind(Code::BrokerTransportFailure, refused), Code::BrokerTransportFailure);
    }
}
