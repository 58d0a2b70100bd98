//! A deployment in etcd out of a backup.
//!
//! There are more entries than one transaction takes, so that a key says that a restoration is under way until its last
//! transaction, which makes `meta` and `proof`: no relay opens half a deployment, and one more restoration may clear it.

use std::path::Path;

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KvClient, Txn, TxnOp};
use tokio::runtime::Builder;

use super::{
    ANSWER_BYTES_MAX, AskError, BYTES_MAX, OPERATIONS_MAX, Settings, ask, connect,
    keys::{Keys, Meta},
    load::after_all,
    refused,
};
use crate::store::{
    backup::{self, BackupError, Entry, Reader, Summary},
    disk::OpenError,
    migrate::FORMAT,
};

/// Makes the deployment that `settings` names out of the backup in `from`. Nothing may be there under its prefix.
///
/// Blocks on the disk and on the network; must not be called from a task.
///
/// # Errors
/// See [`BackupError`].
pub fn restore(from: &Path, settings: &Settings) -> Result<Summary, BackupError> {
    let mut read = Reader::open(from)?;
    let revision = read.restored_revision()?;
    if read.header.format != FORMAT {
        return Err(BackupError::Older(read.header.format));
    }
    backup::verify(from)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = connect(settings).await?;
        let kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let target = Target { kv, keys: Keys::new(&settings.prefix), settings };
        target.check().await?;
        read.settle_key(&settings.key_file)?;
        target.begin().await?;
        let entries = target.fill(&mut read).await?;
        target.finish(Meta::at(revision), &read.header.proof).await?;
        Ok(Summary { revision, entries })
    })
}

struct Target<'a> {
    kv: KvClient,
    keys: Keys,
    settings: &'a Settings,
}

impl Target<'_> {
    /// Nothing may be there but what a restoration left that came to no end.
    async fn check(&self) -> Result<(), BackupError> {
        let all = GetOptions::new().with_range(after_all(self.keys.prefix())).with_limit(1).with_keys_only();
        let found = self.ask(self.kv.clone().get(self.keys.prefix(), Some(all))).await?;
        let unfinished = self.ask(self.kv.clone().get(self.keys.restoring(), None)).await?;
        if !found.kvs().is_empty() && unfinished.kvs().is_empty() {
            return Err(BackupError::PrefixInUse(self.keys.prefix().to_owned()));
        }
        Ok(())
    }

    /// Clears what such a one left, and says what is under way.
    async fn begin(&self) -> Result<(), BackupError> {
        let everything = DeleteOptions::new().with_range(after_all(self.keys.prefix()));
        let clear = TxnOp::delete(self.keys.prefix(), Some(everything));
        self.transact(vec![clear]).await?;
        self.transact(vec![TxnOp::put(self.keys.restoring(), "", None)]).await
    }

    async fn fill(&self, read: &mut Reader) -> Result<u64, BackupError> {
        let (mut operations, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = read.next()? {
            let (key, value) = match entry {
                Entry::Object { object, value } => (self.keys.of_object(&object), value),
                Entry::Record { record, value } => (self.keys.of_record(&record), value),
            };
            if operations.len() == OPERATIONS_MAX || !operations.is_empty() && bytes + value.len() > BYTES_MAX {
                self.transact(std::mem::take(&mut operations)).await?;
                bytes = 0;
            }
            bytes += value.len();
            operations.push(TxnOp::put(key, value, None));
        }
        if !operations.is_empty() {
            self.transact(operations).await?;
        }
        Ok(read.entries)
    }

    async fn finish(&self, meta: Meta, proof: &[u8]) -> Result<(), BackupError> {
        let last = vec![
            TxnOp::put(self.keys.meta(), meta.encode()?, None),
            TxnOp::put(self.keys.proof(), proof, None),
            TxnOp::delete(self.keys.restoring(), None),
        ];
        self.transact(last).await
    }

    /// All of `operations`, unless a relay has made a deployment here meanwhile.
    async fn transact(&self, operations: Vec<TxnOp>) -> Result<(), BackupError> {
        let free = Compare::create_revision(self.keys.meta(), CompareOp::Equal, 0);
        let transaction = Txn::new().when([free]).and_then(operations);
        let response = self.ask(self.kv.clone().txn(transaction)).await?;
        if response.succeeded() { Ok(()) } else { Err(BackupError::PrefixInUse(self.keys.prefix().to_owned())) }
    }

    async fn ask<T>(&self, request: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, BackupError> {
        ask(request).await.map_err(|error: AskError| BackupError::Store(self.refuse(&error)))
    }

    fn refuse(&self, error: &AskError) -> OpenError {
        refused(self.settings, error)
    }
}
