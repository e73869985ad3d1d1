//! What to say about a word that is not known here: what was probably meant, by its spelling or
//! because another product calls it so.

/// Keys of a later version, by section. They are refused with their own message.
pub(crate) fn later(section: &str) -> &'static [&'static str] {
    match section {
        "" => &["cost", "test"],
        "api" => &["linger"],
        "mqtt" => &["share", "retained"],
        "route" => &["jq", "conflate", "max_age"],
        _ => &[],
    }
}

/// The word of `known` that `word` was probably meant to be.
pub(crate) fn meant<'a>(section: &str, word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = plain(word);
    let exact = known.iter().find(|known| self::plain(known) == plain);
    let foreign = || {
        let fits = |(sections, _, theirs): &&(&[&str], &str, &str)| {
            sections.contains(&section) && theirs.split(' ').any(|word| word == plain)
        };
        let ours = FOREIGN.iter().filter(fits).map(|(_, ours, _)| *ours);
        ours.into_iter().find_map(|ours| known.iter().find(|known| **known == ours))
    };
    let similar = || {
        // Words whose lengths alone tell them apart are not compared: one may have a million letters.
        let most = |known: &str| known.len().max(plain.len()).div_ceil(4);
        let distance = |known: &str| strsim::damerau_levenshtein(&plain, &self::plain(known));
        known
            .iter()
            .filter(|known| known.len().abs_diff(plain.len()) <= most(known))
            .map(|known| (distance(known), known))
            .filter(|(distance, known)| *distance <= most(known))
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, known)| known)
    };
    exact.or_else(foreign).or_else(similar).copied()
}

/// Whether a character can't be seen.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

/// Without what is only a habit of spelling: `clientId`, `client-id`, `CLIENT_ID`.
fn plain(word: &str) -> String {
    let seen = |c: &char| !matches!(c, '-' | '_') && !is_blank(*c);
    word.chars().filter(seen).flat_map(char::to_lowercase).collect()
}

/// What other products' words are called here: sections, our word, theirs without `-` and `_`. For a
/// source the section is its type, or `source` while that is not known.
const FOREIGN: &[(&[&str], &str, &str)] = &[
    (&[""], "api", "apis appsync target sink sinks output outputs destination"),
    (&[""], "source", "sources input inputs broker brokers mqtt kafka nats sqs connector"),
    (&[""], "route", "routes pipeline pipelines transforms mapping bridge rule rules"),
    (&[""], "dead_letter", "dlq deadletters deadletterqueue rejects"),
    (&[""], "admin", "http metrics server prometheus health management"),
    (&[""], "log", "logging logs logger tracing"),
    (&[""], "shutdown", "stop drain graceperiod"),
    (&["api"], "endpoint", "url uri address host httpendpoint httpurl graphqlendpoint"),
    (&["api"], "auth", "authentication authorization credentials authmode authtype"),
    (&["api"], "auth", "apikey key region profile aws"),
    (&["api"], "timeout", "requesttimeout timeoutms timeoutseconds"),
    (&["api"], "max_concurrency", "concurrency maxinflight maxconnections workers"),
    (&["api"], "max_rate", "rate ratelimit maxeventspersecond throttle"),
    (&["api"], "connection_max_age", "maxconnectionage connectionlifetime connectionmaxlifetime"),
    (&["api"], "http2", "h2 usehttp2 enablehttp2"),
    (&["api"], "ca_file", "ca cacert cafile cacertificate cabundle"),
    (&["auth"], "key", "apikey token secret value"),
    (&["auth"], "token", "jwt idtoken accesstoken bearer authorization key value"),
    (&["auth"], "token_url", "tokenendpoint tokenuri issuer url endpoint"),
    (&["auth"], "client_id", "client id username user"),
    (&["auth"], "client_secret", "secret password"),
    (&["auth"], "scope", "scopes"),
    (&["auth"], "type", "mode kind method strategy"),
    (&["auth"], "aws", "region profile awsregion awsprofile rolearn role externalid"),
    (&["aws"], "region", "awsregion"),
    (&["aws"], "profile", "awsprofile"),
    (&["aws"], "role_arn", "role assumerole assumerolearn iamrole"),
    (&["mqtt", "source", "dead_letter"], "type", "kind connector protocol"),
    (&["kafka"], "type", "kind connector"),
    (&["sqs"], "type", "kind connector"),
    (&["sqs"], "queue", "queueurl url queuename name arn queuearn topic topics"),
    (
        &["sqs"],
        "aws",
        "region profile awsregion awsprofile rolearn role externalid credentials auth",
    ),
    (&["sqs"], "endpoint", "endpointurl host address customendpoint"),
    (
        &["sqs"],
        "wait_time",
        "waittimeseconds waitseconds pollsecs longpolling longpoll polltimeout",
    ),
    (
        &["sqs"],
        "visibility_timeout",
        "visibilitytimeoutseconds visibilitytimeoutsecs visibility messagetimeout lease ackwait",
    ),
    (&["sqs"], "receivers", "pollers consumers workers concurrency clientconcurrency"),
    (&["sqs"], "unwrap", "rawmessagedelivery envelope sns decode format"),
    (&["sqs"], "max_in_flight", "maxoutstandingmessages maxoutstanding maxmessages prefetch"),
    (
        &["mqtt", "source"],
        "url",
        "broker brokers host address endpoint uri server servers brokerurl hostname addr serverurl",
    ),
    (
        &["mqtt", "source"],
        "subscriptions",
        "topics topic filters subscribe subscription topicfilters topicfilter",
    ),
    (&["mqtt"], "aws", "region profile awsregion awsprofile rolearn role externalid sigv4 iam"),
    (&["mqtt", "source"], "username", "user login"),
    (&["mqtt", "source"], "password", "pass passwd pwd"),
    (&["mqtt", "source"], "client_id", "id client clientname"),
    (&["mqtt", "source"], "qos", "qoslevel qualityofservice defaultqos"),
    (&["mqtt", "source"], "keep_alive", "keepaliveinterval heartbeat pinginterval"),
    (&["mqtt", "source"], "version", "protocolversion mqttversion"),
    (
        &["mqtt", "source"],
        "session_expiry",
        "sessionexpiryinterval sessiontimeout cleansession cleanstart",
    ),
    (&["mqtt", "source"], "max_packet_size", "maximumpacketsize maxmessagesize messagesizelimit"),
    (
        &["mqtt", "source"],
        "max_in_flight",
        "receivemaximum maxinflightmessages prefetch prefetchcount maxoutstanding",
    ),
    (&["mqtt", "source"], "tls", "ssl usetls security"),
    (&["kafka"], "brokers", "bootstrapservers bootstrapserver seedbrokers broker servers hosts"),
    (&["kafka"], "group", "consumergroup groupid consumergroupid"),
    (&["kafka"], "topics", "topic subscriptions topicpattern"),
    (&["kafka"], "start", "autooffsetreset startfromoldest startoffset offsetreset"),
    (&["kafka"], "options", "librdkafkaoptions properties config"),
    (&["kafka"], "group_instance_id", "instanceid staticmember memberid groupinstance"),
    (&["kafka"], "protocol", "groupprotocol rebalanceprotocol"),
    (&["kafka"], "session_timeout", "sessiontimeoutms"),
    (&["kafka"], "drain_timeout", "rebalancetimeout draintimeoutms"),
    (&["kafka"], "tombstones", "tombstone nullvalues"),
    (&["kafka"], "sasl", "auth authentication username user password credentials aws"),
    (&["kafka"], "max_in_flight", "checkpointlimit prefetch maxpollrecords queuesize"),
    (&["kafka"], "tls", "ssl usetls security"),
    (&["nats", "jetstream"], "type", "kind connector"),
    (
        &["nats", "jetstream"],
        "servers",
        "url urls server address addresses hosts natsurl uri brokers",
    ),
    (
        &["nats", "jetstream"],
        "subjects",
        "subject topics topic subscriptions filters filtersubjects filtersubject",
    ),
    (&["nats"], "queue", "queuegroup group deliverygroup consumergroup"),
    (&["jetstream"], "stream", "streamname"),
    (&["jetstream"], "durable", "consumer durablename consumername name queue group consumergroup"),
    (&["jetstream"], "deliver", "deliverpolicy start startfrom autooffsetreset"),
    (&["jetstream"], "ack_wait", "ackwaitms acktimeout visibilitytimeout"),
    (&["jetstream"], "consumers", "replicas shared members"),
    (&["jetstream"], "max_in_flight", "maxackpending prefetch batch batchsize fetchsize"),
    (&["nats"], "max_in_flight", "pendinglimit pendinglimits subscriptioncapacity prefetch"),
    (
        &["nats", "jetstream"],
        "auth",
        "token user username password pass nkey nkeyfile creds credsfile credentials credentialsfile jwt authentication",
    ),
    (&["nats", "jetstream"], "tls_first", "handshakefirst tlshandshakefirst"),
    (&["nats", "jetstream"], "tls", "ssl usetls security secure"),
    (&["nats_auth"], "token", "authtoken accesstoken bearer"),
    (&["nats_auth"], "user", "username login name"),
    (&["nats_auth"], "password", "pass passwd pwd secret"),
    (&["nats_auth"], "nkey", "seed nkeyseed nkeyfile key"),
    (
        &["nats_auth"],
        "creds_file",
        "creds credentials credentialsfile usercredentials credsfile jwt file",
    ),
    (&["sasl"], "mechanism", "type mechanisms saslmechanism method"),
    (&["sasl"], "username", "user login name"),
    (&["sasl"], "password", "pass passwd pwd secret"),
    (&["sasl"], "aws", "region profile rolearn role"),
    (&["tls"], "ca_file", "ca cacert cacertificate rootcasfile cafile"),
    (&["tls"], "cert_file", "cert certificate clientcert crtfile certificatefile"),
    (&["tls"], "key_file", "key privatekey clientkey"),
    (&["route"], "from", "source sources input inputs"),
    (&["route"], "topic", "topics pattern filter match subject when"),
    (&["route"], "channel", "to channels target path output"),
    (&["route"], "api", "apis sink"),
    (&["route"], "order_by", "orderkey key partitionkey orderingkey"),
    (&["route"], "give_up_after", "retries maxretries maxattempts attempts tries"),
    (&["route"], "dead_letter", "dlq onerror rejects deadletters"),
    (&["dead_letter"], "path", "file filename directory"),
    (&["admin"], "listen", "address bind addr port host"),
    (&["log"], "level", "filter verbosity"),
    (&["log"], "format", "style encoding json"),
    (&["shutdown"], "grace", "timeout drain draintimeout graceperiod limit"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const MQTT: [&str; 6] = ["url", "client_id", "subscriptions", "username", "qos", "tls"];

    #[test]
    fn knows_spellings_and_other_products() {
        let cases = [
            ("clientid", "client_id"),
            ("client-id", "client_id"),
            ("clientId", "client_id"),
            ("broker", "url"),
            ("topics", "subscriptions"),
            ("user", "username"),
            ("qos_level", "qos"),
            ("subscriptons", "subscriptions"),
            ("ulr", "url"),
        ];
        for (word, meaning) in cases {
            assert_eq!(meant("mqtt", word, &MQTT), Some(meaning), "{word}");
        }
        assert_eq!(meant("api", "endpont", &["endpoint", "auth"]), Some("endpoint"));
        assert_eq!(meant("api", "url", &["endpoint", "auth"]), Some("endpoint"));
        assert_eq!(meant("mqtt", "banana", &MQTT), None);
        let kafka = ["brokers", "group", "topics"];
        assert_eq!(meant("kafka", "bootstrap_servers", &kafka), Some("brokers"));
        assert_eq!(meant("kafka", "consumer_group", &kafka), Some("group"));
    }
}
