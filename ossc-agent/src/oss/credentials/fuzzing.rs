//! The documents that access keys come in, for fuzzers: a panic when keys that cannot be sent pass the check, when a
//! secret is shown, or when a message would break the line of a log. Driven by `oss::fuzzing`.

use super::document::Document;
use super::{Credentials, ecs, file, oidc};

/// The JSON of the metadata service and of the connector, the reply of STS, and the file in both its formats.
pub(in crate::oss) fn documents(bytes: &[u8]) {
    let document = serde_json::from_slice(bytes).map(Document::credentials);
    if let Ok(Ok(credentials)) = document {
        sendable(&credentials);
    }
    let replies = [ecs::read(bytes), oidc::read(200, bytes).map_err(|refusal| refusal.reason)];
    let text = std::str::from_utf8(bytes).map(file::parse).into_iter();
    for outcome in replies.into_iter().chain(text) {
        match outcome {
            Ok(credentials) => sendable(&credentials),
            Err(message) => {
                assert!(!message.contains(char::is_control), "it can forge lines of the log: {message:?}")
            }
        }
    }
}

fn sendable(credentials: &Credentials) {
    if credentials.check().is_ok() {
        let token = credentials.security_token.iter().map(|token| token.expose());
        let texts = token.chain([credentials.access_key_id.as_str(), credentials.access_key_secret.expose()]);
        for text in texts {
            assert!(hyper::header::HeaderValue::from_str(text).is_ok_and(|value| value.to_str().is_ok()));
        }
    }
    let (shown, secret) = (format!("{credentials:?}"), credentials.access_key_secret.expose());
    let telling = secret.len() > 20 && !credentials.access_key_id.contains(secret);
    assert!(!telling || !shown.contains(secret), "a secret is shown");
}
