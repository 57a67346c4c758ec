//! linux/netfilter/nf_tables.h and nfnetlink.h, and the ids that `nft` gives
//! to types (its include/datatype.h), by which it lists a set's elements.

pub(super) const SUBSYSTEM: u16 = 10;
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;
pub(super) const BATCH_GENID: u16 = 1;

pub(super) const NEWTABLE: u16 = 0;
pub(super) const GETTABLE: u16 = 1;
pub(super) const DELTABLE: u16 = 2;
pub(super) const NEWCHAIN: u16 = 3;
pub(super) const GETCHAIN: u16 = 4;
pub(super) const DELCHAIN: u16 = 5;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
pub(super) const DELRULE: u16 = 8;
pub(super) const NEWSET: u16 = 9;
pub(super) const GETSET: u16 = 10;
pub(super) const DELSET: u16 = 11;
pub(super) const NEWSETELEM: u16 = 12;
pub(super) const GETSETELEM: u16 = 13;
pub(super) const DELSETELEM: u16 = 14;
pub(super) const NEWGEN: u16 = 15;
pub(super) const GETGEN: u16 = 16;

pub(super) const LIST_ELEM: u16 = 1;

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_POSITION: u16 = 6;
pub(super) const RULE_USERDATA: u16 = 7;
/// libnftnl's udata.h.
pub(super) const UDATA_RULE_COMMENT: u8 = 0;

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LEN: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LEN: u16 = 7;
pub(super) const SET_DESC: u16 = 9;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_USERDATA: u16 = 13;
pub(super) const DESC_CONCAT: u16 = 2;
pub(super) const FIELD_LEN: u16 = 1;
pub(super) const FLAG_INTERVAL: u32 = 4;
pub(super) const FLAG_MAP: u32 = 8;
pub(super) const FLAG_TIMEOUT: u32 = 0x10;
pub(super) const FLAG_CONCAT: u32 = 0x80;
pub(super) const DATA_VERDICT_TYPE: u32 = 0xFFFF_FF00;
/// libnftnl's udata.h; in what order the bytes of numbers stand.
pub(super) const UDATA_SET_KEYBYTEORDER: u8 = 0;
pub(super) const UDATA_SET_DATABYTEORDER: u8 = 1;

pub(super) const ELEM_LIST_TABLE: u16 = 1;
pub(super) const ELEM_LIST_SET: u16 = 2;
pub(super) const ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const ELEM_KEY: u16 = 1;
pub(super) const ELEM_DATA: u16 = 2;
pub(super) const ELEM_FLAGS: u16 = 3;
pub(super) const ELEM_TIMEOUT: u16 = 4;
pub(super) const ELEM_KEY_END: u16 = 10;
pub(super) const ELEM_INTERVAL_END: u32 = 1;

pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;
pub(super) const CODE_DROP: u32 = 0;
pub(super) const CODE_ACCEPT: u32 = 1;
/// -3, -4 and -5.
pub(super) const CODE_JUMP: u32 = 0xFFFF_FFFD;
pub(super) const CODE_GOTO: u32 = 0xFFFF_FFFC;
pub(super) const CODE_RETURN: u32 = 0xFFFF_FFFB;

pub(super) const EXPR_NAME: u16 = 1;
pub(super) const EXPR_DATA: u16 = 2;

/// linux/netfilter/nf_tables_compat.h, `enum nft_match_attributes`.
pub(super) const MATCH_NAME: u16 = 1;
pub(super) const MATCH_INFO: u16 = 3;
pub(super) const COUNTER_BYTES: u16 = 1;
pub(super) const COUNTER_PACKETS: u16 = 2;

pub(super) const GEN_ID: u16 = 1;
pub(super) const GEN_PROC_PID: u16 = 2;
pub(super) const GEN_PROC_NAME: u16 = 3;
