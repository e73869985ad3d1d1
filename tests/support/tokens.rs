//! An OAuth 2.0 issuer: signed tokens (RS256) for client credentials, from a small endpoint.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use axum::extract::State;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode, header};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

/// Whom the endpoint knows.
pub(crate) const CLIENT_ID: &str = "bridge";
pub(crate) const CLIENT_SECRET: &str = "token-secret";
/// What a token is for, and who says so.
pub(crate) const AUDIENCE: &str = "kafka";
pub(crate) const ISSUER: &str = "https://issuer.test";

/// Signs tokens.
pub(crate) struct Issuer {
    key: KeyPair,
}

/// `POST /token` with client credentials, in the body or as `Authorization: Basic`; it ends when dropped.
pub(crate) struct TokenEndpoint {
    pub(crate) url: String,
    desk: Arc<TokenCache>,
    task: AbortHandle,
}

struct TokenCache {
    issuer: Mutex<Arc<Issuer>>,
    lifetime: Mutex<Duration>,
    refusal: AtomicU16,
    asked: AtomicU64,
    scope: Mutex<String>,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        Self { key: KeyPair::generate(KeySize::Rsa2048).unwrap() }
    }

    /// The public key, as a JWK set.
    pub(crate) fn keys(&self) -> Value {
        // The end of a public key of 2048 bits: its modulus, then the three bytes of 65537.
        let der = self.key.public_key().as_der().unwrap();
        let (rest, exponent) = der.as_ref().split_last_chunk::<3>().unwrap();
        assert_eq!(exponent, &[1, 0, 1]);
        let modulus = &rest[rest.len() - 2 - 256..rest.len() - 2];
        json!({ "keys": [{
            "kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "e": "AQAB", "n": encode(modulus),
        }] })
    }

    /// A token that is good for so long.
    pub(crate) fn token(&self, subject: &str, lifetime: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "1" }).to_string();
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now.as_secs(),
            "exp": (now + lifetime).as_secs(), "jti": rand::random::<u64>().to_string(),
        });
        let signed = format!("{}.{}", encode(header), encode(claims.to_string()));
        let mut signature = vec![0; self.key.public_modulus_len()];
        let random = SystemRandom::new();
        self.key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", encode(signature))
    }

    /// Opens an endpoint on a free port. Its tokens live for an hour.
    pub(crate) async fn serve(self: &Arc<Self>) -> TokenEndpoint {
        let desk = Arc::new(TokenCache {
            issuer: Mutex::new(Arc::clone(self)),
            lifetime: Mutex::new(Duration::from_hours(1)),
            refusal: AtomicU16::new(0),
            asked: AtomicU64::new(0),
            scope: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let router = axum::Router::new()
            .route("/token", axum::routing::post(answer))
            .with_state(Arc::clone(&desk));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        TokenEndpoint { url, desk, task: task.abort_handle() }
    }
}

impl TokenEndpoint {
    /// From now on its tokens live for so long.
    pub(crate) fn lifetime(&self, lifetime: Duration) {
        *self.desk.lifetime.lock().unwrap() = lifetime;
    }

    /// From now on its tokens are those of this issuer.
    pub(crate) fn gives_of(&self, issuer: &Arc<Issuer>) {
        *self.desk.issuer.lock().unwrap() = Arc::clone(issuer);
    }

    /// From now on it answers with this status, whoever asks; 0 ends that.
    pub(crate) fn refuse(&self, status: u16) {
        self.desk.refusal.store(status, Ordering::SeqCst);
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> u64 {
        self.desk.asked.load(Ordering::SeqCst)
    }

    /// The scope of the last request.
    pub(crate) fn scope(&self) -> String {
        self.desk.scope.lock().unwrap().clone()
    }
}

impl Drop for TokenEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(desk): State<Arc<TokenCache>>,
    headers: HeaderMap,
    body: String,
) -> impl IntoResponse {
    desk.asked.fetch_add(1, Ordering::SeqCst);
    let form = Url::parse(&format!("form:?{body}")).unwrap();
    let field = |name: &str| {
        form.query_pairs()
            .find(|(key, _)| key == name)
            .map(|(_, v)| v.into_owned())
            .unwrap_or_default()
    };
    *desk.scope.lock().unwrap() = field("scope");
    let basic = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().unwrap().strip_prefix("Basic "))
        .map(|value| String::from_utf8(BASE64_STANDARD.decode(value).unwrap()).unwrap());
    let known = basic
        .unwrap_or_else(|| format!("{}:{}", field("client_id"), field("client_secret")))
        == format!("{CLIENT_ID}:{CLIENT_SECRET}");
    let refusal = desk.refusal.load(Ordering::SeqCst);
    let (status, answer) = if refusal != 0 {
        (StatusCode::from_u16(refusal).unwrap(), json!({ "error": "temporarily_unavailable" }))
    } else if field("grant_type") != "client_credentials" {
        (StatusCode::BAD_REQUEST, json!({ "error": "unsupported_grant_type" }))
    } else if !known {
        (StatusCode::UNAUTHORIZED, json!({ "error": "invalid_client" }))
    } else {
        let lifetime = *desk.lifetime.lock().unwrap();
        let token = desk.issuer.lock().unwrap().token(CLIENT_ID, lifetime);
        let seconds = lifetime.as_secs();
        let granted =
            json!({ "access_token": token, "token_type": "Bearer", "expires_in": seconds });
        (StatusCode::OK, granted)
    };
    (status, [(header::CONTENT_TYPE, "application/json")], answer.to_string())
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
