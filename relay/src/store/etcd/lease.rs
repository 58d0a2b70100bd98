//! The relay's lease in etcd: what is attached to it ends with the relay.

use std::time::Duration;

use etcd_client::LeaseClient;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::{AskError, ask, feed::Fed};
use crate::{clock, store::writer::Order};

/// How long records outlive a relay that died without a word.
const LIFE: Duration = Duration::from_secs(10);
/// How often the lease is renewed: three times may fail.
const RENEW: Duration = Duration::from_millis(2500);
/// After a lease was lost, how long until it is reported again if nobody has made another.
const AGAIN: Duration = Duration::from_secs(1);

/// A new lease.
pub(super) async fn grant(lease: &mut LeaseClient) -> Result<i64, AskError> {
    let seconds = i64::try_from(LIFE.as_secs()).expect("ten fits");
    ask(lease.grant(seconds, None)).await.map(|granted| granted.id())
}

/// Keeps the lease alive whose id `current` holds, and tells the writer when it was lost.
pub(super) async fn keep(
    mut lease: LeaseClient,
    mut current: watch::Receiver<i64>,
    fed: mpsc::Sender<Fed>,
    orders: mpsc::WeakSender<Order>,
) {
    loop {
        let id = *current.borrow_and_update();
        keep_one(&mut lease, id).await;
        if fed.send(Fed::LeaseLost(id)).await.is_err() {
            return;
        }
        if let Some(orders) = orders.upgrade() {
            let _ = orders.try_send(Order::Refresh);
        }
        if let Ok(Err(_)) = timeout(AGAIN, current.changed()).await {
            return;
        }
    }
}

/// Returns when the lease has ended, as etcd says or as its time is over.
async fn keep_one(lease: &mut LeaseClient, id: i64) {
    let mut alive_until = Instant::from_std(clock::instant()) + LIFE;
    while Instant::from_std(clock::instant()) < alive_until {
        let Ok((mut keeper, mut answers)) = ask(lease.keep_alive(id)).await else {
            sleep(AGAIN).await;
            continue;
        };
        loop {
            let asked = Instant::from_std(clock::instant());
            if keeper.keep_alive().await.is_err() {
                break;
            }
            match timeout(RENEW, answers.message()).await {
                Ok(Ok(Some(answer))) if answer.ttl() > 0 => alive_until = asked + LIFE,
                Ok(Ok(Some(_))) => return,
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            }
            sleep(RENEW).await;
        }
    }
}
