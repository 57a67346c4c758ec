//! Images on their way out.

use super::agent::TestAgent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_sent_as_a_tar_of_an_oci_layout() {
    let agent = TestAgent::start().await;
    let answer = agent.client.get("/api/images/base/export").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/x-tar");
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    let dir = tempfile::tempdir().unwrap();
    let digest = inn_image::receive_layout(&mut &answer.body[..], Some(dir.path())).unwrap();
    let image = agent.client.get("/api/images/base").await.ok();
    assert_eq!(image["id"], digest.to_string());
    let by_id = agent.client.get(&format!("/api/images/{digest}/export")).await;
    assert!(by_id.body == answer.body, "the same image is the same bytes");
    assert_eq!(agent.client.get("/api/images/absent/export").await.problem().0, 404);
}
