//! The other side: etcd alone, which is what a relay of a larger deployment would keep its objects in.

use etcd_client::{Compare, CompareOp, GetOptions, KvClient, Txn, TxnOp, WatchClient, WatchOptions, WatchStream};
use underpass_tests::etcd::Etcd;

use crate::side::{Listed, Place, Side, object};

const ALL: &str = "/registry/configmaps/";

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Client {
    keys: KvClient,
    watches: WatchClient,
}

impl Client {
    /// `count` connections to `etcd`.
    pub(crate) async fn several(etcd: &Etcd, count: usize) -> Vec<Self> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let client = etcd.connect().await;
            let keys = client.kv_client().max_decoding_message_size(usize::MAX);
            clients.push(Self { keys, watches: client.watch_client() });
        }
        clients
    }

    /// The stream of events after `revision` in one namespace.
    ///
    /// # Errors
    /// When etcd refuses.
    pub(crate) async fn watch(&mut self, namespace: &str, revision: u64) -> anyhow::Result<WatchStream> {
        let from = WatchOptions::new().with_prefix().with_start_revision(revision as i64 + 1);
        let mut stream = self.watches.watch(format!("{ALL}{namespace}/"), Some(from)).await?;
        let first = stream.message().await?;
        anyhow::ensure!(first.is_some_and(|message| message.created()), "a watch begins by saying that it is there");
        Ok(stream)
    }

    /// Writes if the key is as `compare` says, in one transaction, as API servers do.
    async fn write(&mut self, key: String, compare: Compare, value: String) -> anyhow::Result<u64> {
        let txn = Txn::new().when([compare]).and_then([TxnOp::put(key, value, None)]);
        let answer = self.keys.txn(txn).await?;
        anyhow::ensure!(answer.succeeded(), "nobody else writes here");
        Ok(answer.header().map_or(0, |header| header.revision() as u64))
    }
}

impl Side for Client {
    async fn create(&mut self, place: &Place) -> anyhow::Result<u64> {
        let key = key(place);
        let compare = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
        self.write(key, compare, object(place, 0)).await
    }

    async fn update(&mut self, place: &Place, revision: u64) -> anyhow::Result<u64> {
        let key = key(place);
        let compare = Compare::mod_revision(key.clone(), CompareOp::Equal, revision as i64);
        self.write(key, compare, object(place, revision)).await
    }

    async fn list(&mut self, namespace: Option<&str>, limit: Option<usize>) -> anyhow::Result<Listed> {
        let prefix = namespace.map_or(ALL.to_owned(), |name| format!("{ALL}{name}/"));
        // The first key that no longer begins so: `0` follows `/`.
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let (mut from, mut revision, mut listed) = (prefix.into_bytes(), 0, Listed::default());
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(limit.unwrap_or(0) as i64);
            let answer = self.keys.get(from, Some(options.with_revision(revision))).await?;
            listed.objects += answer.kvs().len();
            listed.bytes += answer.kvs().iter().map(|pair| pair.key().len() + pair.value().len()).sum::<usize>();
            if !answer.more() {
                return Ok(listed);
            }
            revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            from = answer.kvs().last().map(|pair| [pair.key(), b"\0"].concat()).unwrap_or_default();
        }
    }
}

fn key(place: &Place) -> String {
    format!("{ALL}{}/{}", place.namespace, place.name)
}
