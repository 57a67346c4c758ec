use std::os::unix::fs::PermissionsExt;

use super::*;

fn new(name: &str, scope: Scope) -> NewToken {
    NewToken { name: Some(name.to_owned()), scope, vms: None, ttl: None }
}

fn scope_of(tokens: &Tokens, token: &str) -> Option<Scope> {
    tokens.principal(token, Timestamp::now()).and_then(|(principal, _)| principal.scope)
}

#[tokio::test]
async fn the_first_token_is_made_once_and_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let store = Store::open(dir.path()).unwrap();
    let tokens = Tokens::open(&store, &file).await.unwrap();
    let token = std::fs::read_to_string(&file).unwrap();
    assert_eq!(scope_of(&tokens, token.trim()), Some(Scope::Admin));
    assert_eq!(scope_of(&tokens, ""), None);
    assert_eq!(scope_of(&tokens, &token), None, "the newline is not part of it");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let again = Tokens::open(&store, &file).await.unwrap();
    assert_eq!(scope_of(&again, token.trim()), Some(Scope::Admin));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), token);

    std::fs::remove_file(&file).unwrap();
    let fresh = Tokens::open(&store, &file).await.unwrap();
    let other = std::fs::read_to_string(&file).unwrap();
    assert!(scope_of(&fresh, other.trim()).is_some() && other != token);
}

#[tokio::test]
async fn a_token_is_good_until_it_is_revoked_or_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let store = Store::open(dir.path()).unwrap();
    let tokens = Tokens::open(&store, &file).await.unwrap();
    let (reader, record) = tokens.create(new("reader", Scope::Read)).await.unwrap();
    let (principal, end) = tokens.principal(&reader, Timestamp::now()).unwrap();
    assert_eq!(principal.who.to_string(), format!("token reader ({})", record.id));
    let taken = tokens.create(new("reader", Scope::Read)).await;
    assert!(matches!(taken, Err(TokenError::NameTaken(_))), "{taken:?}");
    for name in ["", "a b", "x\n", &"x".repeat(65)] {
        let refused = tokens.create(new(name, Scope::Read)).await;
        assert!(matches!(refused, Err(TokenError::BadName)), "{name}: {refused:?}");
    }
    let none = NewToken { ttl: Some(Duration::ZERO), ..new("z", Scope::Read) };
    assert!(matches!(tokens.create(none).await, Err(TokenError::BadTime)));

    let brief = NewToken { ttl: Some(Duration::from_secs(60)), ..new("brief", Scope::Operate) };
    let (brief, of_brief) = tokens.create(brief).await.unwrap();
    let expires = of_brief.expires_at.unwrap();
    assert!(tokens.principal(&brief, expires - Duration::from_secs(1)).is_some());
    assert!(tokens.principal(&brief, expires).is_none());

    assert!(!end.revoked.is_cancelled());
    let revoked = tokens.revoke(record.id).await.unwrap().unwrap();
    assert!(end.revoked.is_cancelled() && revoked.revoked_at.is_some());
    assert_eq!(scope_of(&tokens, &reader), None);
    let again = tokens.revoke(record.id).await.unwrap().unwrap();
    assert_eq!(again.revoked_at, revoked.revoked_at);
    // Its name is free, and means the new one.
    let (_, second) = tokens.create(new("reader", Scope::Read)).await.unwrap();
    assert_eq!(tokens.find("reader").unwrap().id, second.id);
    assert_eq!(tokens.find(&record.id.to_string()).unwrap().id, record.id);
    assert!(tokens.revoke(TokenId::from_bytes([0; 8])).await.unwrap().is_none());

    let next_life = Tokens::open(&store, &file).await.unwrap();
    assert_eq!(scope_of(&next_life, &reader), None);
    assert_eq!(scope_of(&next_life, &brief), Some(Scope::Operate));
    assert_eq!(next_life.all().len(), 4);
}

#[tokio::test]
async fn what_has_been_of_no_use_for_a_month_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let store = Store::open(dir.path()).unwrap();
    let long_ago = Timestamp::now() - Duration::from_secs(40 * 24 * 3600);
    let old = TokenRecord {
        id: TokenId::from_bytes([7; 8]),
        name: "old".into(),
        digest: digest("old"),
        scope: Scope::Read,
        vms: None,
        created_at: long_ago,
        expires_at: Some(long_ago + Duration::from_secs(60)),
        used_at: None,
        revoked_at: None,
    };
    store.add_token(old.clone()).await.unwrap();
    let tokens = Tokens::open(&store, &file).await.unwrap();
    assert_eq!(tokens.find("old"), None);
    assert_eq!(store.tokens().await.unwrap().len(), 1, "the first one");
}

#[tokio::test]
async fn a_first_token_that_cannot_be_written_leaves_no_digest_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let nowhere = dir.path().join("missing/token");
    for _ in 0..3 {
        Tokens::open(&store, &nowhere).await.unwrap_err();
    }
    assert_eq!(store.tokens().await.unwrap().len(), 0);

    // Stored, and never put in its place: the next start finds it again.
    let file = dir.path().join("token");
    let fresh = dir.path().join("token.new");
    Tokens::open(&store, &file).await.unwrap();
    let token = std::fs::read_to_string(&file).unwrap();
    for _ in 0..3 {
        std::fs::rename(&file, &fresh).unwrap();
        let tokens = Tokens::open(&store, &file).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), token);
        assert_eq!(scope_of(&tokens, token.trim()), Some(Scope::Admin));
    }
    assert_eq!(store.tokens().await.unwrap().len(), 1);

    // Written and not stored: it was nobody's, and another is made.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&fresh, format!("inn_{}\n", "0".repeat(64))).unwrap();
    let tokens = Tokens::open(&store, &file).await.unwrap();
    let other = std::fs::read_to_string(&file).unwrap();
    assert!(scope_of(&tokens, other.trim()).is_some() && other != token);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}
