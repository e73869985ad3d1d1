//! The admin port of a running bridge, from the side of who asks it: where it is, the token, and what it answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, redirect};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use url::Url;

use super::named_file::{self, Refused};
use super::{check, exit};
use crate::config::{self, AdminConfig, Environment, Secret};
use crate::error_chain::in_one_line;
use crate::files::regular;
use crate::outbound::tls;

/// For an answer; a probe that takes longer is one that failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Largest answer: thousands of routes fit.
const MAX_BYTES: usize = 64 << 20;

/// The variable with the token.
const TOKEN: &str = "APPSYNC_BRIDGE_ADMIN_TOKEN";

/// Where `listen` is unless set.
const DEFAULT: &str = "127.0.0.1:9464";

/// Which bridge is asked.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct At {
    /// Its admin port: `HOST:PORT` or a URL; 127.0.0.1:9464 unless given
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    admin: Option<String>,

    /// Take address, certificate and token from `[admin]` of this configuration, whatever else is in it
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["token_file", "ca_file"])]
    config: Option<PathBuf>,

    /// A file with the token of `[admin]`; else that in `$APPSYNC_BRIDGE_ADMIN_TOKEN`, if any
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// A CA to trust beside the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Send the token over plain text off loopback
    #[arg(long)]
    dangerously_plaintext: bool,
}

/// An admin port that can be asked.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    base: Url,
    token: Option<Secret>,
    client: Client,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    /// Of HTTP.
    pub(super) status: u16,
    /// The body.
    pub(super) text: String,
}

impl Admin {
    /// As the command line says. What is wrong with that is printed; the exit code.
    pub(super) fn of(at: &At) -> Result<Self, ExitCode> {
        let made = match &at.config {
            None => Self::at(at),
            Some(path) => match config::load_admin(path, &Environment::of_process()) {
                Ok(admin) => Self::configured(&admin).map_err(Refused::from),
                Err(problems) => {
                    check::show(&problems);
                    return Err(exit::of_problems(&problems));
                }
            },
        };
        made.map_err(|why| why.report())
    }

    fn at(at: &At) -> Result<Self, Refused> {
        let base = url(at.admin.as_deref().unwrap_or(DEFAULT), at.ca_file.is_some())?;
        let token = match &at.token_file {
            Some(path) => Some(named_file::secret("--token-file", path)?),
            None => std::env::var(TOKEN).ok().filter(|text| !text.is_empty()).map(Secret::new),
        };
        let plain = base.scheme() == "http" && !is_loopback(&base);
        if plain && token.is_some() && !at.dangerously_plaintext {
            let why = format!(
                "the token would go to `{base}` as plain text; write `https://`, or to send it all the same `--dangerously-plaintext`"
            );
            return Err(why.into());
        }
        if let Some(path) = &at.ca_file {
            named_file::certificates("--ca-file", path)?;
        }
        let tls = tls::client_config(at.ca_file.as_deref(), None);
        let tls = match tls {
            // Plain text needs none, and a small container has none.
            Err(_) if base.scheme() == "http" => tls::trusting_nobody(),
            tls => tls,
        };
        Ok(Self::new(base, token, tls.map_err(|why| why.to_string())?)?)
    }

    /// On this machine, of a bridge with this configuration. Whatever names its certificate has: it is the one in the
    /// file.
    fn configured(config: &AdminConfig) -> Result<Self, String> {
        let listen = config.listen;
        if listen.port() == 0 {
            return Err(
                "`listen` of `[admin]` leaves the port to the system; name it with `--admin`"
                    .into(),
            );
        }
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, listen.port());
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let base = url(&format!("{scheme}://{address}"), false)?;
        let mut tls = tls::trusting_nobody().map_err(|why| why.to_string())?;
        if let Some((chain, _)) = &config.tls {
            let algorithms = tls.crypto_provider().signature_verification_algorithms;
            let pinned = Pinned { chain: chain.clone(), algorithms };
            tls.dangerous().set_certificate_verifier(Arc::new(pinned));
        }
        Self::new(base, config.token.clone(), tls)
    }

    fn new(base: Url, token: Option<Secret>, tls: ClientConfig) -> Result<Self, String> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("appsync-bridge/", env!("CARGO_PKG_VERSION")))
            .timeout(PATIENCE)
            .build()
            .map_err(|why| in_one_line(&why))?;
        Ok(Self { base, token, client })
    }

    /// The address, for people.
    pub(super) fn shown(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Asks for a path. The error says why there is no answer, and what to check.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, String> {
        let mut request = self.client.get(format!("{}{path}", self.shown()));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.current().await);
        }
        let mut answer = request.send().await.map_err(|why| self.words(&why))?;
        let (status, mut body) = (answer.status().as_u16(), Vec::new());
        while let Some(piece) = answer.chunk().await.map_err(|why| self.words(&why))? {
            if body.len() + piece.len() > MAX_BYTES {
                return Err(format!("the answer of `{}` is far too large", self.shown()));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status, text: String::from_utf8_lossy(&body).into_owned() })
    }

    fn words(&self, why: &reqwest::Error) -> String {
        let hint = if why.is_timeout() {
            "it takes too long"
        } else if why.is_connect() {
            "does the bridge run, and is this the `listen` of its `[admin]`?"
        } else if self.base.scheme() == "http" {
            "has it `tls`? then write `https://`"
        } else {
            "is this the `listen` of its `[admin]`?"
        };
        let why = why.without_url_in_words();
        format!("no answer from `{}`: {why}; {hint}", self.shown())
    }
}

impl Answer {
    /// The text, where it is what was asked for; else why it is not.
    pub(super) fn good(self) -> Result<String, String> {
        match self.status {
            200 => Ok(self.text),
            401 => Err(format!(
                "the bridge wants the token of its `[admin]`, and this is not it, or none; set `{TOKEN}`, or `--token-file`, or name its configuration with `-c`"
            )),
            404 => Err("what answers there is no bridge, or an older one".to_owned()),
            status => Err(format!("it answers {status}: {}", self.text.trim())),
        }
    }
}

trait Words {
    fn without_url_in_words(&self) -> String;
}

impl Words for reqwest::Error {
    /// From the cause on: its own words are the URL, which is said anyway.
    fn without_url_in_words(&self) -> String {
        let cause = std::error::Error::source(self);
        cause.map_or_else(|| self.to_string(), in_one_line)
    }
}

/// Trusts one certificate, that in the bridge's own file, by whatever name and however old.
#[derive(Debug)]
struct Pinned {
    chain: PathBuf,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    /// Read anew, because the bridge does so, too.
    fn is_in_file(&self, shown: &CertificateDer<'_>) -> bool {
        let first = |path: &Path| {
            let content = regular::read(path, tls::MAX_BYTES).ok()?;
            CertificateDer::from_pem_slice(&content.bytes).ok()
        };
        first(&self.chain).is_some_and(|own| own == *shown)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.is_in_file(shown) {
            return Ok(ServerCertVerified::assertion());
        }
        let words = "it shows another certificate than that in `cert_file`: another server, or the file has a new one \
                     whose key does not fit yet, which the log of the bridge says";
        Err(rustls::Error::General(words.to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// `HOST`, `HOST:PORT` or a URL.
fn url(text: &str, encrypted: bool) -> Result<Url, String> {
    let refused = |why: &str| format!("`{text}` is no address of an admin port: {why}");
    let full = match (text.contains("://"), encrypted) {
        (true, _) => text.to_owned(),
        (false, true) => format!("https://{text}"),
        (false, false) => format!("http://{text}"),
    };
    let mut url = Url::parse(&full).map_err(|why| refused(&why.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused("write `http://` or `https://`"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("the address holds a password; put the token into `{TOKEN}`"));
    }
    let bare = !text.contains("://") && url.port().is_none() && !text.ends_with([':', '/']);
    // A URL without a port is that of a proxy; of what is no URL, `:80` was not meant.
    if bare && !text.ends_with(":80") && !text.ends_with(":443") {
        let _ = url.set_port(Some(9464));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => IpAddr::from(ip).to_canonical().is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(admin: &str) -> At {
        At {
            admin: Some(admin.to_owned()),
            config: None,
            token_file: None,
            ca_file: None,
            dangerously_plaintext: false,
        }
    }

    #[test]
    fn an_address_is_a_url_or_less() {
        for (text, shown) in [
            ("127.0.0.1:9464", "http://127.0.0.1:9464"),
            ("bridge", "http://bridge:9464"),
            ("[::1]", "http://[::1]:9464"),
            ("bridge:80", "http://bridge"),
            ("https://ops.example/bridge/", "https://ops.example/bridge"),
        ] {
            assert_eq!(Admin::at(&at(text)).unwrap().shown(), shown);
        }
        for text in ["ftp://bridge", "http://", "http://me:secret@bridge", "a b"] {
            let why = Admin::at(&at(text)).unwrap_err().to_string();
            assert!(!why.contains("secret@"), "{why}");
        }
    }

    #[test]
    fn a_token_goes_over_plain_text_on_loopback_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "token of the port\n").unwrap();
        let with = |admin: &str, plain| {
            let token_file = Some(file.path().to_owned());
            Admin::at(&At { token_file, dangerously_plaintext: plain, ..at(admin) })
        };
        assert!(with("localhost", false).is_ok() && with("https://bridge", false).is_ok());
        assert!(with("bridge", true).is_ok());
        let why = with("bridge", false).unwrap_err().to_string();
        assert!(why.contains("https://") && why.contains("--dangerously-plaintext"), "{why}");
        std::fs::write(&file, "\n").unwrap();
        assert!(with("localhost", false).unwrap_err().to_string().contains("is empty"));
    }
}
