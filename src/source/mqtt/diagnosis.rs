//! Why a connection ended, and what to look at. Pure.

use std::error::Error;
use std::fmt::Debug;
use std::io;
use std::time::SystemTime;

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;
use rustls::AlertDescription as Alert;
use tungstenite::error::ProtocolError;

use super::transport::{self, About};
use crate::config::mqtt::{MqttConfig, MqttVersion};
use crate::error_chain;

/// The end of a connection.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) what: String,
    pub(super) kind: Kind,
    /// How far it had come.
    pub(super) stage: Stage,
}

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The broker has not taken us.
    Connecting,
    /// It has, and has not answered for every filter.
    Subscribing,
    /// It has.
    Subscribed,
}

/// What kind of end it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The broker does not know the user, or does not let it.
    Credentials,
    /// It does not take the client's name.
    ClientId,
    /// It does not speak this version.
    Version,
    /// It has no subscription identifiers.
    NoIdentifiers,
    /// Another client has the same name.
    TakenOver,
    /// The other side closed the connection without a word.
    Closed,
    /// It did so in the middle of a packet, or of what is none.
    CutShort,
    /// What it says is not MQTT.
    NotMqtt,
    /// It sends a packet that breaks a rule of MQTT, such as a topic that is no UTF-8.
    Malformed,
    /// It sends more in a frame of a WebSocket than we take.
    FrameTooLarge,
    /// What it says is not TLS.
    NotTls,
    /// What it says is no answer to the handshake of a WebSocket.
    NotHttp,
    /// It answers the handshake of a WebSocket with something else.
    NoWebSocket,
    /// It does not let us have a WebSocket.
    Forbidden,
    /// It does not, and its clock and ours are apart.
    Clock,
    /// We don't trust its certificate.
    Certificate,
    /// It does not trust ours, or wants one.
    Identity,
    /// Nobody listens there.
    NobodyListens,
    /// There is no such host.
    NoHost,
    /// It does not answer.
    Silent,
    /// Something else, that its words tell.
    Other,
}

/// The trouble that an error of a client is. The two crates have the same names but for a timeout.
macro_rules! of_error {
    ($crate_of:ident, $error:ident, $of_code:ident, $silent:pat) => {{
        use $crate_of::{ConnectionError, Error, StateError};
        let kind = match $error {
            ConnectionError::ConnectionRefused(code) => {
                return Self::refused(code, $of_code(*code));
            }
            ConnectionError::Websocket(error) => return Self::of_websocket(error),
            ConnectionError::ResponseValidation(_) | ConnectionError::NotConnAck(_) => {
                Kind::NotMqtt
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => Kind::Closed,
            ConnectionError::MqttState(StateError::Deserialization(inner)) => match inner {
                // Its cause is not among those of the error.
                Error::Io(io) => of_causes(io, false),
                // A code that this version does not have is one of the other.
                Error::InvalidConnectReturnCode(_) => Kind::Version,
                Error::TopicNotUtf8 { .. } | Error::MalformedPacket => Kind::Malformed,
                _ => Kind::NotMqtt,
            },
            $silent => Kind::Silent,
            error => of_causes(error, matches!(error, ConnectionError::Tls(_))),
        };
        Self::new(error_chain::in_one_line($error), kind)
    }};
}

impl Trouble {
    /// An end that its words explain.
    pub(super) fn other(what: impl Into<String>) -> Self {
        Self::new(what, Kind::Other)
    }

    /// There is no answer.
    pub(super) fn silent(what: impl Into<String>) -> Self {
        Self::new(what, Kind::Silent)
    }

    /// An error of the client for 3.1.1.
    pub(super) fn of_v3(error: &v4::ConnectionError) -> Self {
        use v4::ConnectionError as E;
        of_error!(v4, error, of_code_v3, E::NetworkTimeout | E::FlushTimeout)
    }

    /// An error of the client for 5.
    pub(super) fn of_v5(error: &v5::ConnectionError) -> Self {
        use v5::ConnectionError as E;
        if let E::MqttState(v5::StateError::ServerDisconnect { reason_code, .. }) = error {
            return Self::of_goodbye(*reason_code);
        }
        of_error!(v5, error, of_code_v5, E::Timeout(_))
    }

    /// The goodbye of a broker.
    fn of_goodbye(code: v5::DisconnectReasonCode) -> Self {
        use v5::DisconnectReasonCode as Code;
        let kind = match code {
            Code::SessionTakenOver => Kind::TakenOver,
            Code::SubscriptionIdentifiersNotSupported => Kind::NoIdentifiers,
            Code::NotAuthorized => Kind::Credentials,
            _ => Kind::Other,
        };
        Self::new(format!("the broker ended the connection ({code:?})"), kind)
    }

    /// As it is, of a connection that had come so far.
    pub(super) fn at(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    /// A WebSocket that was not made, or that failed.
    fn of_websocket(error: &tungstenite::Error) -> Self {
        use tungstenite::Error as E;
        let kind = match error {
            E::Http(http) => {
                let (what, about) = transport::read(http, SystemTime::now());
                return Self::new(
                    what,
                    match about {
                        About::NoWebSocket => Kind::NoWebSocket,
                        About::Forbidden => Kind::Forbidden,
                        About::Clock => Kind::Clock,
                    },
                );
            }
            E::ConnectionClosed
            | E::AlreadyClosed
            | E::Protocol(
                ProtocolError::HandshakeIncomplete | ProtocolError::ResetWithoutClosingHandshake,
            ) => Kind::Closed,
            E::Protocol(_) => Kind::NotHttp,
            error => of_causes(error, false),
        };
        Self::new(error_chain::in_one_line(error), kind)
    }

    fn refused(code: impl Debug, kind: Kind) -> Self {
        Self::new(format!("the broker refuses the connection ({code:?})"), kind)
    }

    fn new(what: impl Into<String>, kind: Kind) -> Self {
        Self { what: what.into(), kind, stage: Stage::Connecting }
    }

    /// What to look at; empty where the words say it all.
    pub(super) fn hint(&self, config: &MqttConfig) -> String {
        let stage = self.stage;
        let tls = config.tls.is_some();
        let websocket = config.websocket.is_some();
        let identity = config.tls.as_ref().is_some_and(|tls| tls.identity.is_some());
        let version = match config.version {
            MqttVersion::V5 => "`version = 3` is 3.1.1",
            MqttVersion::V3 => "`version = 5` is the other",
        };
        let hint = match self.kind {
            Kind::Credentials if config.aws.is_some() => {
                "do the AWS credentials allow `iot:Connect` for this `client_id`?"
            }
            Kind::Credentials if config.username.is_none() && !identity => {
                "the broker may want a `username` and a `password`"
            }
            Kind::Credentials => {
                "check `username` and `password`, and what the broker lets this client do"
            }
            Kind::ClientId => "check `client_id`: the broker does not take this one",
            Kind::Version => {
                return format!("does the broker speak this version of MQTT? {version}");
            }
            Kind::NoIdentifiers => "they are left out from now on",
            Kind::TakenOver => "another client uses the same `client_id`: give each its own",
            Kind::Closed if config.aws.is_some() && stage == Stage::Connecting => {
                "do the AWS credentials allow `iot:Connect` for this `client_id`?"
            }
            Kind::NoWebSocket => "is the path of `url` right? many brokers have `/mqtt`",
            Kind::Forbidden if config.aws.is_some() => {
                "check the AWS credentials, and the region and role of `aws`; what the credentials have to \
                 allow is `iot:Connect`"
            }
            Kind::Forbidden => "check what the server lets this client do",
            Kind::Clock => "set this machine's clock: a signature is good for five minutes",
            Kind::NotHttp | Kind::Closed if websocket && stage == Stage::Connecting => {
                "is this the port of a WebSocket, with TLS (`wss://`) or without (`ws://`)? without a WebSocket \
                 it is `mqtts://` or `mqtt://`"
            }
            Kind::Closed => match (stage, tls) {
                (Stage::Connecting, false) => {
                    return format!(
                        "does this port speak TLS? then write `mqtts://`; and does the broker speak \
                         this version of MQTT? {version}"
                    );
                }
                (Stage::Connecting, true) => {
                    return format!(
                        "does the broker want a client's certificate \
                         (`tls = {{ cert_file = …, key_file = … }}`), and does it speak this version \
                         of MQTT? {version}"
                    );
                }
                (Stage::Subscribing, _) => {
                    "may this client subscribe to all of `subscriptions`? the broker's log says more"
                }
                (Stage::Subscribed, _) => "",
            },
            Kind::Malformed if stage > Stage::Connecting => {
                "a publisher's topic or properties may be no UTF-8, or hold a NUL: the specification has the connection \
                 closed, and the broker sends the message again over the next one. Have the broker refuse such \
                 publishers (EMQX: `mqtt.strict_mode = true`), and end the session of this `client_id` there, with \
                 what waits in it"
            }
            Kind::FrameTooLarge => {
                "a message above 16 MiB can't come over a WebSocket, and the broker sends it again over each connection: \
                 take it over TCP (`mqtts://`), or have the broker refuse such messages"
            }
            Kind::CutShort | Kind::NotMqtt if stage > Stage::Connecting => "",
            Kind::CutShort | Kind::NotMqtt | Kind::Malformed if websocket => {
                "is this WebSocket one of MQTT? many brokers have it at `/mqtt`"
            }
            Kind::CutShort | Kind::NotMqtt | Kind::Malformed if tls => "is this a port for MQTT?",
            Kind::CutShort | Kind::NotMqtt | Kind::Malformed => {
                "is this a port for MQTT? if it speaks TLS, write `mqtts://`; if it is one of WebSockets, `ws://`"
            }
            Kind::NotTls if websocket => "does this port speak TLS? if it does not, write `ws://`",
            Kind::NotTls => "does this port speak TLS? if it does not, write `mqtt://`",
            Kind::Certificate => {
                "is the host of `url` the right one? a CA of your own is named in \
                 `tls = { ca_file = … }`"
            }
            Kind::Identity if identity => {
                "does the broker trust `cert_file` of `tls`, and is it still valid?"
            }
            Kind::Identity => {
                "the broker wants a client's certificate: `tls = { cert_file = …, key_file = … }`"
            }
            Kind::NobodyListens => "does the broker run, and is this its port?",
            Kind::NoHost => "check the host in `url`",
            Kind::Silent if stage == Stage::Connecting && !tls => {
                "check host and port, and what is between; does this port speak TLS? then write \
                 `mqtts://`"
            }
            Kind::Silent => "check host and port, and what is between",
            Kind::NotHttp | Kind::Other => "",
        };
        hint.to_owned()
    }
}

fn of_code_v3(code: v4::ConnectReturnCode) -> Kind {
    use v4::ConnectReturnCode as Code;
    match code {
        Code::BadUserNamePassword | Code::NotAuthorized => Kind::Credentials,
        Code::BadClientId => Kind::ClientId,
        Code::RefusedProtocolVersion => Kind::Version,
        Code::Success | Code::ServiceUnavailable => Kind::Other,
    }
}

fn of_code_v5(code: v5::ConnectReturnCode) -> Kind {
    use v5::ConnectReturnCode as Code;
    match code {
        Code::BadUserNamePassword | Code::NotAuthorized | Code::BadAuthenticationMethod => {
            Kind::Credentials
        }
        Code::BadClientId | Code::ClientIdentifierNotValid => Kind::ClientId,
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => Kind::Version,
        _ => Kind::Other,
    }
}

/// What the causes of an error tell; `handshake`: whether it is of TLS.
fn of_causes(error: &(dyn Error + 'static), handshake: bool) -> Kind {
    let mut kind = Kind::Other;
    let mut next = Some(error);
    while let Some(cause) = next {
        next = cause.source();
        let io = cause.downcast_ref::<io::Error>();
        let frame = io.and_then(|io| io.get_ref()?.downcast_ref::<tungstenite::Error>());
        if let Some(tungstenite::Error::Capacity(_)) = frame {
            return Kind::FrameTooLarge;
        }
        // It hides the first of its causes.
        let within = io.and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
        if let Some(tls) = within.or_else(|| cause.downcast_ref::<rustls::Error>()) {
            return of_tls(tls);
        }
        if let Some(io) = io {
            kind = of_io(io, handshake);
        }
    }
    kind
}

fn of_tls(error: &rustls::Error) -> Kind {
    match error {
        rustls::Error::InvalidMessage(_) => Kind::NotTls,
        rustls::Error::InvalidCertificate(_) => Kind::Certificate,
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => Kind::Identity,
        _ => Kind::Other,
    }
}

fn of_io(error: &io::Error, handshake: bool) -> Kind {
    use io::ErrorKind as E;
    match error.kind() {
        E::UnexpectedEof | E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe => {
            if handshake { Kind::NotTls } else { Kind::Closed }
        }
        E::ConnectionRefused => Kind::NobodyListens,
        E::TimedOut | E::HostUnreachable | E::NetworkUnreachable => Kind::Silent,
        // These have no kind of their own.
        _ if error.to_string().contains("bytes remaining") => Kind::CutShort,
        _ if error.to_string().contains("lookup address") => Kind::NoHost,
        _ => Kind::Other,
    }
}
