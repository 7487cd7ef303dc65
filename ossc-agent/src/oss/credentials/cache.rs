//! Keeps the answer of a credential source fresh for all connections of a client, whichever thread they run
//! on. Keys are renewed ahead of their end by one caller while the others go on with the old ones; a failed
//! renewal is no failure as long as the old keys are good. A key that OSS rejects is renewed at once, once.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use super::{CredentialSource, Credentials, CredentialsError};
use crate::oss::clock::Clock;
use crate::oss::dial::Dialer;

/// Keys are renewed when this much of their life is left at the latest (credentials-go: 180 s).
const LAST_MOMENT: Duration = Duration::from_secs(180);
/// Keys are renewed when this part of their life is over, in percent.
const RENEW_AT_PERCENT: u32 = 80;
/// Time between two renewals, so that a source that keeps giving old keys is not asked all the time.
const RENEWAL_SPACING: Duration = Duration::from_secs(10);

/// What is signed with; None = requests are anonymous.
pub(in crate::oss) type Key = Option<Arc<Credentials>>;

/// One source and its last answer.
#[derive(Debug)]
pub(in crate::oss) struct CredentialCache {
    source: CredentialSource,
    clock: Clock,
    held: RwLock<Option<Held>>,
    /// Held by the one caller that asks the source.
    last: tokio::sync::Mutex<LastAttempt>,
}

/// Keys in use.
#[derive(Debug, Clone)]
struct Held {
    key: Key,
    expires: Option<SystemTime>,
    /// None = never.
    renew_at: Option<SystemTime>,
}

/// How the source answered last, for those who waited meanwhile.
#[derive(Debug, Default)]
struct LastAttempt {
    ended: Option<Instant>,
    failure: Option<CredentialsError>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Fresh,
    /// Still good, but to be renewed.
    Due,
    Expired,
}

impl CredentialCache {
    pub(in crate::oss) fn new(source: CredentialSource, clock: Clock) -> Self {
        Self { source, clock, held: RwLock::new(None), last: tokio::sync::Mutex::default() }
    }

    /// The keys to sign with now; asks the source when there are none or they end soon.
    pub(in crate::oss) async fn get(&self, dialer: &Dialer) -> Result<Key, CredentialsError> {
        let asked = Instant::now();
        let held = self.held();
        match held.as_ref().map(|held| held.state(self.clock.now())) {
            Some(State::Fresh) => return Ok(held.and_then(|held| held.key)),
            Some(State::Due) => match self.last.try_lock() {
                // Another caller is renewing them.
                Err(_) => return Ok(held.and_then(|held| held.key)),
                Ok(mut last) => return self.renew(&mut last, dialer).await,
            },
            Some(State::Expired) | None => {}
        }
        let mut last = self.last.lock().await;
        if let Some(held) = self.held()
            && held.state(self.clock.now()) != State::Expired
        {
            return Ok(held.key);
        }
        if let (Some(ended), Some(failure)) = (last.ended, &last.failure)
            && ended >= asked
        {
            return Err(failure.clone());
        }
        self.renew(&mut last, dialer).await
    }

    /// After OSS rejected `rejected` as expired or unknown: whether there are other keys to try now.
    pub(in crate::oss) async fn replace(&self, rejected: &Arc<Credentials>, dialer: &Dialer) -> bool {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let replaced = |held: Option<Held>| {
            held.and_then(|held| held.key).is_some_and(|key| key.as_ref() != rejected.as_ref())
        };
        if replaced(self.held()) {
            return true;
        }
        if last.ended.is_some_and(|ended| ended >= asked) {
            return false;
        }
        tracing::info!(source = self.source.name(), "OSS rejects the credentials; asking for new ones");
        self.renew(&mut last, dialer).await.is_ok() && replaced(self.held())
    }

    /// Asks the source and keeps the answer; the old keys serve on if it fails and they are good.
    async fn renew(&self, last: &mut LastAttempt, dialer: &Dialer) -> Result<Key, CredentialsError> {
        let answer = self.source.fetch(dialer).await;
        last.ended = Some(Instant::now());
        last.failure = answer.as_ref().err().cloned();
        let now = self.clock.now();
        let next = match (answer, self.held()) {
            (Ok(credentials), _) => Held::new(credentials, now),
            (Err(error), Some(old)) if old.expires.is_none_or(|expires| now < expires) => {
                tracing::warn!(%error, "credentials could not be renewed; the old ones are still good");
                Held { renew_at: Some(now + RENEWAL_SPACING), ..old }
            }
            (Err(error), _) => return Err(error),
        };
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Some(next.clone());
        Ok(next.key)
    }

    fn held(&self) -> Option<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Held {
    /// Keys just received. They are used even if they seem to be over: OSS judges by its own clock.
    fn new(credentials: Option<Credentials>, now: SystemTime) -> Self {
        let expires = credentials.as_ref().and_then(|credentials| credentials.expiration);
        let renew_at = expires.map(|expires| {
            let life = expires.duration_since(now).unwrap_or_default();
            let early = (life / 100).saturating_mul(RENEW_AT_PERCENT).min(life.saturating_sub(LAST_MOMENT));
            now + early.max(RENEWAL_SPACING)
        });
        Self { key: credentials.map(Arc::new), expires, renew_at }
    }

    fn state(&self, now: SystemTime) -> State {
        match (self.renew_at, self.expires) {
            (Some(renew_at), _) if now < renew_at => State::Fresh,
            (Some(_), Some(expires)) if now >= expires => State::Expired,
            (Some(_), _) => State::Due,
            (None, _) => State::Fresh,
        }
    }
}
