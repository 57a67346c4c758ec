use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::account::Account;
use crate::entry::Entry;
use crate::input::Moment;

/// A line of the ledger: entries, chained to the line before and signed.
///
/// A line is this as JSON with one more key at its end, `"sig"`: an Ed25519
/// signature, in hex, of all bytes before `,"sig"` and a closing brace. `prev`
/// is the SHA-256 of the whole line before without its line feed, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// From 1.
    pub block: u64,
    pub prev: String,
    pub node: String,
    /// The node's public key, in hex.
    pub key: String,
    /// Of the host, whose steady clock the spans are by.
    pub boot: String,
    /// When it was written.
    pub at: Moment,
    /// What numbers stand for, where no line of the file has said it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts: BTreeMap<u32, Account>,
    pub entries: Vec<Entry>,
}

/// The last block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub block: u64,
    /// SHA-256 of its line, in hex.
    pub hash: String,
}

/// Who signs blocks.
pub trait Signer {
    /// The public key in hex.
    fn key(&self) -> String;
    fn sign(&self, message: &[u8]) -> Vec<u8>;
}

#[derive(Debug, thiserror::Error)]
#[error("a block cannot be written as JSON")]
pub struct BlockError(#[from] serde_json::Error);

const SIG: &str = ",\"sig\":\"";
const END: &str = "\"}";

impl Head {
    /// Of what may be no block.
    pub fn of_line(line: &[u8]) -> Self {
        let block = Block::parse(line).map_or(0, |(block, ..)| block.block);
        Self { block, hash: hash(line) }
    }

    /// Before any block.
    pub fn none() -> Self {
        Self { block: 0, hash: String::new() }
    }
}

/// A number, a colon and a hash.
impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(block, hash)| {
            let is_hash = hash.len() == 64 && unhex(hash).is_some();
            is_hash.then_some(Self { block: block.parse().ok()?, hash: hash.to_owned() })
        });
        parsed.ok_or_else(|| "a block is its number, a colon and 64 hex digits".to_owned())
    }
}

impl Block {
    pub(crate) fn sealed(&self, signer: &dyn Signer) -> Result<(String, Head), BlockError> {
        let mut line = serde_json::to_string(self)?;
        // Its closing brace, which is ASCII.
        line.pop();
        let signature = hex(&signer.sign(line.as_bytes()));
        line.push_str(SIG);
        line.push_str(&signature);
        line.push_str(END);
        let head = Head { block: self.block, hash: hash(line.as_bytes()) };
        Ok((line, head))
    }

    /// The block of a line, the bytes that are signed, and the signature.
    ///
    /// # Errors
    /// A sentence that says why it is no block.
    pub fn parse(line: &[u8]) -> Result<(Self, &[u8], Vec<u8>), String> {
        let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
        let (signed, rest) = text.rsplit_once(SIG).ok_or("it has no signature")?;
        let signature = rest.strip_suffix(END).and_then(unhex).ok_or("its signature is cut")?;
        let body = format!("{signed}}}");
        let block = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        Ok((block, signed.as_bytes(), signature))
    }
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !text.len().is_multiple_of(2) || !text.as_bytes().iter().all(lower) {
        return None;
    }
    let pair = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}
