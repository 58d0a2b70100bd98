//! Copies of requests for backends whose answers nobody waits for (Gateway API, `HTTPRequestMirrorFilter`).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use http_body_util::BodyExt as _;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::{Meter, RequestBody},
    upstream::Pool,
};
use crate::{
    clock,
    route::{filter::Mirror, target::Upstream},
};

/// Copies of one worker at once; further ones are not made.
const MIRRORS_MAX: usize = 256;

/// How long a copy and its answer may take.
const MIRROR: Duration = Duration::from_secs(15);

/// The copies that one worker is sending.
#[derive(Debug)]
pub(super) struct Mirrors {
    pool: Arc<Pool>,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    cut: CancellationToken,
}

/// Whether the uniformly random `seed` makes this request one of the mirror's share.
#[must_use]
pub(super) fn is_due(mirror: &Mirror, seed: u64) -> bool {
    let share = u128::from(mirror.numerator) << 64;
    u128::from(seed) * u128::from(mirror.denominator) < share
}

impl Mirrors {
    pub(super) fn new(pool: Arc<Pool>, tasks: TaskTracker, cut: CancellationToken) -> Self {
        Self { pool, room: Arc::new(Semaphore::new(MIRRORS_MAX)), tasks, cut }
    }

    /// Sends `request` to `upstream` beside everything else, and forgets the answer.
    pub(super) fn send(&self, upstream: Arc<Upstream>, client: SocketAddr, request: Box<Request<RequestBody>>) {
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            tracing::debug!(endpoint = %upstream.endpoint, "too many mirrored requests: one was left out");
            return;
        };
        let (pool, cut) = (self.pool.clone(), self.cut.clone());
        self.tasks.spawn(async move {
            let _room = room;
            let meter = Meter::default();
            let exchange = async {
                match pool.send(&upstream, client, request, (false, clock::instant()), &meter).await {
                    // Read to its end, so that the connection can be used again.
                    Ok(response) => {
                        let mut body = response.into_body();
                        while let Some(Ok(_)) = body.frame().await {}
                    }
                    Err(error) => tracing::debug!(endpoint = %upstream.endpoint, %error, "a mirrored request"),
                }
            };
            tokio::select! {
                () = cut.cancelled() => {}
                _ = timeout(MIRROR, exchange) => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::target::{Answer, Backend, Target};

    #[test]
    fn the_share_is_the_fraction() {
        let target = Target::Answer(Answer { status: 500, text: "x".into() });
        let backend = Backend { name: "b".into(), weight: 1, target, filters: Default::default() };
        let check = |numerator, denominator, want: usize| {
            let mirror = Mirror { backend: backend.clone(), numerator, denominator };
            let due = (0..1000_u64).filter(|step| is_due(&mirror, (2 * step + 1) * (u64::MAX / 2000))).count();
            assert_eq!(due, want, "{numerator}/{denominator}");
        };
        check(1, 1, 1000);
        check(0, 100, 0);
        check(20, 100, 200);
        check(1, 2, 500);
        check(3, 2, 1000);
    }
}
