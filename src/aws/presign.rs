//! A request whose signature, in Signature Version 4, is in its query: it is sent, or shown, without another header.

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as Keys;
pub use aws_sigv4::http_request::SessionTokenMode;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use http::{Request, header};

/// What a signature is for.
pub struct Presigner {
    /// The service, as its signatures name it.
    pub service: &'static str,
    /// How long it is good.
    pub lifetime: Duration,
    /// Whether the token of a session is signed, or put behind the signature.
    pub session_token: SessionTokenMode,
}

impl Presigner {
    /// Signs `request`, a GET without a body, as of `now`: its URL, and its `host` if it names one. Fails for a region
    /// that fits no host's name.
    pub fn sign(
        &self,
        mut request: Request<()>,
        keys: &Keys,
        region: &str,
        now: SystemTime,
    ) -> Result<Request<()>, Box<dyn Error>> {
        let identity = keys.clone().into();
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.session_token_mode = self.session_token;
        settings.expires_in = Some(self.lifetime);
        let params = SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(self.service)
            .time(now)
            .settings(settings)
            .build()?
            .into();
        let signature = {
            let url = request.uri().to_string();
            let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
            let host = host.map(|host| ("host", host)).into_iter();
            let unsigned = SignableRequest::new("GET", &url, host, SignableBody::Bytes(b""))?;
            sign(unsigned, &params)?.into_parts().0
        };
        signature.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}
