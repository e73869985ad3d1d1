//! What to say about a word that is not known here: what was probably meant, by its spelling or
//! because another product calls it so.

/// A key, and what other products call it, without `-` and `_`.
pub(crate) type Word = (&'static str, &'static str);

/// What a kind of source, or a table of it, knows beside what all know: lists, for kinds may share one.
pub(crate) type Words = &'static [&'static [Word]];

/// Keys of a later version, by section. They are refused with their own message.
pub(crate) fn later(section: &str) -> &'static [&'static str] {
    match section {
        "" => &["test"],
        "api" => &["linger"],
        "source" => &["after_outage"],
        "route" => &["jq", "conflate", "unchanged", "max_age", "schema", "registry"],
        _ => &[],
    }
}

/// The word of `known` that `word` was probably meant to be.
pub(crate) fn meant<'a>(section: &str, word: &str, known: &[&'a str]) -> Option<&'a str> {
    meant_by(section, &[], word, known)
}

/// As [`meant`], with words that only this table knows.
pub(crate) fn meant_by<'a>(
    section: &str,
    own: Words,
    word: &str,
    known: &[&'a str],
) -> Option<&'a str> {
    let plain = plain(word);
    let exact = known.iter().find(|known| self::plain(known) == plain);
    let foreign = || {
        let all = FOREIGN.iter().filter(|(sections, _)| sections.contains(&section));
        let all = own.iter().copied().flatten().chain(all.flat_map(|(_, words)| words.iter()));
        let mut ours = all.filter(|(_, theirs)| theirs.split(' ').any(|word| word == plain));
        ours.find_map(|(ours, _)| known.iter().find(|known| *known == ours))
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

/// What other products' words are called here, by section: our word, theirs without `-` and `_`. What only a kind of
/// source knows is with its settings.
type Foreign = (&'static [&'static str], &'static [Word]);

const FOREIGN: &[Foreign] = &[
    (
        &[""],
        &[
            ("api", "apis appsync target sink sinks output outputs destination"),
            ("source", "sources input inputs broker brokers connector"),
            ("route", "routes pipeline pipelines transforms mapping bridge rule rules"),
            ("dead_letter", "dlq deadletters deadletterqueue rejects"),
            ("admin", "http metrics server prometheus health management"),
            ("log", "logging logs logger tracing"),
            ("otlp", "otel opentelemetry telemetry traces tracer"),
            ("shutdown", "stop drain graceperiod"),
            ("cost", "costs price prices pricing tariff billing"),
        ],
    ),
    (
        &["api"],
        &[
            ("endpoint", "url uri address host httpendpoint httpurl graphqlendpoint"),
            ("auth", "authentication authorization credentials authmode authtype"),
            ("auth", "apikey key region profile aws"),
            ("timeout", "requesttimeout timeoutms timeoutseconds"),
            ("max_concurrency", "concurrency maxinflight maxconnections workers"),
            ("max_rate", "rate ratelimit maxeventspersecond throttle"),
            ("connection_max_age", "maxconnectionage connectionlifetime connectionmaxlifetime"),
            ("http2", "h2 usehttp2 enablehttp2"),
            ("ca_file", "ca cacert cafile cacertificate cabundle"),
        ],
    ),
    (
        &["auth"],
        &[
            ("key", "apikey token secret value"),
            ("token", "jwt idtoken accesstoken bearer authorization key value"),
            ("token_url", "tokenendpoint tokenuri issuer url endpoint"),
            ("client_id", "client id username user"),
            ("client_secret", "secret password"),
            ("scope", "scopes"),
            ("type", "mode kind method strategy"),
            ("aws", "region profile awsregion awsprofile rolearn role externalid"),
        ],
    ),
    (
        &["aws"],
        &[
            ("region", "awsregion defaultregion regionname"),
            ("profile", "awsprofile profilename credentialsprofile"),
            ("role_arn", "role assumerole assumerolearn iamrole awsrolearn stsrolearn"),
            ("external_id", "awsexternalid assumeroleexternalid stsexternalid"),
        ],
    ),
    (
        &["tls"],
        &[
            ("ca_file", "ca cacert cacertificate rootcasfile cafile"),
            ("cert_file", "cert certificate clientcert crtfile certificatefile"),
            ("key_file", "key privatekey clientkey"),
        ],
    ),
    (
        &["route"],
        &[
            ("from", "source sources input inputs"),
            ("topic", "topics pattern filter match subject when"),
            ("channel", "to channels target path output"),
            ("api", "apis sink"),
            ("order_by", "orderkey key partitionkey orderingkey"),
            ("give_up_after", "retries maxretries maxattempts attempts tries"),
            ("dead_letter", "dlq onerror rejects deadletters"),
        ],
    ),
    (&["dead_letter"], &[("path", "file filename directory")]),
    (
        &["admin"],
        &[
            ("listen", "address bind addr port host"),
            ("token", "bearer bearertoken apikey auth password"),
            ("tls", "ssl https certificate"),
        ],
    ),
    (&["log"], &[("level", "filter verbosity"), ("format", "style encoding json")]),
    (
        &["cost"],
        &[
            ("per_million", "price permillionevents costpermillion rate"),
            ("unit", "unitsize metering size"),
        ],
    ),
    (
        &["otlp"],
        &[
            ("endpoint", "url uri address host collector exporterotlpendpoint"),
            ("headers", "header authorization auth token apikey metadata"),
            ("sample", "sampler sampling samplerate samplingrate ratio samplingratio tracesampler"),
            ("interval", "pushinterval exportinterval metricexportinterval period"),
            ("timeout", "exporttimeout timeoutms"),
            ("ca_file", "ca cacert cafile certificate cacertificate"),
            ("dangerously_plaintext", "insecure plaintext"),
            ("traces", "trace tracing spans"),
            ("metrics", "metric"),
        ],
    ),
    (&["shutdown"], &[("grace", "timeout drain draintimeout graceperiod limit")]),
    (&["source"], &[("tls", "ssl usetls security secure")]),
    (&["source", "dead_letter"], &[("type", "kind connector protocol")]),
];

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 6] = ["url", "client_id", "subscriptions", "username", "qos", "tls"];

    const WORDS: Words = &[&[
        ("url", "broker brokers"),
        ("subscriptions", "topics filters"),
        ("username", "user"),
        ("qos", "qoslevel"),
    ]];

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
            assert_eq!(meant_by("source", WORDS, word, &KEYS), Some(meaning), "{word}");
        }
        assert_eq!(meant("api", "endpont", &["endpoint", "auth"]), Some("endpoint"));
        assert_eq!(meant("api", "url", &["endpoint", "auth"]), Some("endpoint"));
        assert_eq!(meant_by("source", WORDS, "banana", &KEYS), None);
        // Those of all tables of the kind are known beside its own.
        assert_eq!(meant_by("source", WORDS, "use_ssl", &KEYS), None);
        assert_eq!(meant_by("source", WORDS, "use_tls", &KEYS), Some("tls"));
    }
}
