//! S3's uploads in parts, listed and aborted: the two calls that `ObjectStore` has no words for.
//!
//! The listing is signed by the store's own credentials and goes through the store's own client, so its proxy, its
//! certificates and its time limits hold. A page begins behind the last key of the one before: with the other marker,
//! of the upload, versitygw knows no page but the first. Where a page ends between two uploads of one name, which takes
//! a lost reply and a thousand others, the second is found once the first is gone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lakeferry_api::Result;
use object_store::aws::AmazonS3;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpRequest, HttpRequestBody, HttpResponse, ReqwestConnector,
};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer};
use object_store::{Error, Result as StoreResult};
use serde::Deserialize;

use super::explain;
use super::leftovers::{OpenUpload, OpenUploads};

/// How long the signature of a listing holds.
const SIGNED_FOR: Duration = Duration::from_secs(300);
/// An answer beyond this size is none: a page has 1,000 uploads at most.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct S3Uploads {
    store: AmazonS3,
    client: HttpClient,
    /// Where paths begin in the bucket.
    root: Path,
}

/// Connects as usual, and keeps the last client: the one that the store itself uses.
#[derive(Debug, Clone, Default)]
pub(super) struct KeepingConnector {
    last: Arc<Mutex<Option<HttpClient>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "ListMultipartUploadsResult", rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default, rename = "Upload")]
    uploads: Vec<PageUpload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PageUpload {
    key: String,
    upload_id: String,
    #[serde(default)]
    initiated: String,
}

impl HttpConnector for KeepingConnector {
    fn connect(&self, options: &ClientOptions) -> StoreResult<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

impl S3Uploads {
    /// Those of `store`, which `connector` has connected. Nothing where it never did.
    pub(super) fn new(store: AmazonS3, connector: &KeepingConnector, root: Path) -> Option<Self> {
        let client = connector.last.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Self { store, client, root })
    }

    async fn page(&self, prefix: &str, behind: String) -> StoreResult<Page> {
        let mut query = vec![("uploads", ""), ("prefix", prefix)];
        if !behind.is_empty() {
            query.push(("key-marker", &behind));
        }
        let options = SignedUrlOptions::new().with_query(query);
        let url = self.store.signed_url_opts(Method::GET, &Path::default(), SIGNED_FOR, &options).await?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.as_str().parse().map_err(failed)?;
        let answer = self.client.execute(request).await.map_err(failed)?;
        let status = answer.status();
        let body = body(answer).await?;
        if matches!(status.as_u16(), 405 | 501) {
            let operation = "the listing of unfinished uploads".to_owned();
            return Err(Error::NotImplemented { operation, implementer: self.store.to_string() });
        }
        if !status.is_success() {
            return Err(failed(format!("{status}: {body}")));
        }
        page_of(&body)
    }

    fn below_root(&self, path: &Path) -> Path {
        self.root.parts().chain(path.parts()).collect()
    }
}

#[async_trait]
impl OpenUploads for S3Uploads {
    async fn list(&self, folder: &Path) -> Result<Vec<OpenUpload>> {
        let prefix = format!("{}/", self.below_root(folder));
        let all = all_pages(|behind| self.page(&prefix, behind)).await;
        let all = all.map_err(|error| explain(&format!("list the open uploads below {folder}"), error))?;
        let found = all.into_iter().filter_map(|upload| {
            let path: Path = Path::parse(&upload.key).ok()?.prefix_match(&self.root)?.collect();
            Some(OpenUpload { path, id: upload.upload_id, begun_at: upload.initiated })
        });
        Ok(found.collect())
    }

    async fn abort(&self, upload: &OpenUpload) -> Result<()> {
        match self.store.abort_multipart(&self.below_root(&upload.path), &upload.id).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(explain(&format!("abort the upload of {}", upload.path), error)),
        }
    }
}

/// Reads a page. What it allocates is bounded by the body's length.
fn page_of(body: &str) -> StoreResult<Page> {
    quick_xml::de::from_str(body).map_err(|error| failed(format!("the answer is no list of open uploads: {error}")))
}

/// Asks for page after page; a store whose marker does not advance would send pages for ever.
async fn all_pages<F>(mut page: impl FnMut(String) -> F) -> StoreResult<Vec<PageUpload>>
where
    F: Future<Output = StoreResult<Page>>,
{
    let (mut all, mut behind) = (Vec::new(), String::new());
    loop {
        let Page { is_truncated, next_key_marker, uploads } = page(behind.clone()).await?;
        all.extend(uploads);
        if !is_truncated {
            return Ok(all);
        }
        if next_key_marker <= behind {
            return Err(failed(format!("the listing of open uploads does not come beyond {next_key_marker}")));
        }
        behind = next_key_marker;
    }
}

async fn body(answer: HttpResponse) -> StoreResult<String> {
    use futures::TryStreamExt as _;
    let mut bytes = Vec::new();
    let mut chunks = answer.into_body().bytes_stream();
    while let Some(chunk) = chunks.try_next().await.map_err(failed)? {
        if bytes.len() + chunk.len() > MAX_PAGE_BYTES {
            return Err(failed(format!("an answer of more than {MAX_PAGE_BYTES} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|error| failed(format!("the answer is no list of open uploads: {error}")))
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "S3", source: source.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
        <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
          <Bucket>lake</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker>
          <NextKeyMarker>a&amp;b</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker>
          <MaxUploads>2</MaxUploads><IsTruncated>true</IsTruncated>
          <Upload><Key>a</Key><UploadId>1</UploadId><Initiator><ID>x</ID></Initiator>
            <Initiated>2026-11-21T10:00:00.000Z</Initiated></Upload>
          <CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>
          <Upload><Key>a&amp;b</Key><UploadId>2</UploadId><StorageClass>STANDARD</StorageClass></Upload>
        </ListMultipartUploadsResult>"#;
    const LAST: &str = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>\
        <Upload><Key>c</Key><UploadId>3</UploadId></Upload></ListMultipartUploadsResult>";

    #[tokio::test]
    async fn every_page_is_read_from_where_the_one_before_ended() {
        let mut asked = Vec::new();
        let all = all_pages(|behind| {
            asked.push(behind);
            let text = if asked.len() == 1 { FIRST } else { LAST };
            std::future::ready(Ok(quick_xml::de::from_str(text).unwrap()))
        });
        let all: Vec<_> = all.await.unwrap().into_iter().map(|upload| (upload.key, upload.upload_id)).collect();
        let pair = |key: &str, id: &str| (key.to_owned(), id.to_owned());
        assert_eq!(all, [pair("a", "1"), pair("a&b", "2"), pair("c", "3")]);
        assert_eq!(asked, ["", "a&b"]);
    }

    #[tokio::test]
    async fn a_listing_that_turns_in_a_circle_is_given_up() {
        let mut asked = 0;
        let all = all_pages(|_| {
            asked += 1;
            std::future::ready(Ok(quick_xml::de::from_str(FIRST).unwrap()))
        });
        assert!(all.await.unwrap_err().to_string().contains("a&b"));
        assert_eq!(asked, 2);
    }

    /// What the answer is taken for, or an error that names the folder and what is wrong.
    fn take(body: &str) -> std::result::Result<(), TestCaseError> {
        match page_of(body) {
            Ok(page) => {
                let size = page.next_key_marker.len()
                    + page.uploads.iter().map(|upload| upload.key.len() + upload.upload_id.len()).sum::<usize>();
                prop_assert!(size <= body.len());
            }
            Err(error) => {
                let error = explain("list the open uploads below topics/orders", error).trace();
                let named = error.contains("list the open uploads below topics/orders");
                let why = error.split_once("the answer is no list of open uploads: ").map(|(_, why)| why);
                prop_assert!(named && why.is_some_and(|why| !why.is_empty()), "{}", error);
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), tags in "[<>/&;!?= \"a-zA-Z\\[\\]-]{0,80}") {
            take(&text)?;
            take(&tags)?;
        }

        #[test]
        fn no_damage_to_a_listing_makes_it_panic(
            at in any::<prop::sample::Index>(), len in 0..40usize, with in "[<>/&;!?= \"a-zA-Z0-9\\[\\]-]{0,20}",
        ) {
            let mut text = FIRST.to_owned();
            let at = at.index(text.len());
            text.replace_range(at..(at + len).min(text.len()), &with);
            take(&text)?;
        }
    }

    #[test]
    fn nesting_without_end_and_entities_do_no_harm() {
        for (open, around) in [("<a>", ""), ("<Upload>", ""), ("<Upload><Key>", ""), ("<Key>", "<Upload>")] {
            take(&format!("<ListMultipartUploadsResult>{around}{}", open.repeat(300_000))).unwrap();
        }
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">]>";
        take(&format!("{bomb}{}", FIRST.replace("a&amp;b", "&b;"))).unwrap();
    }

    #[test]
    fn an_empty_listing_has_no_uploads() {
        let page: Page = quick_xml::de::from_str("<ListMultipartUploadsResult/>").unwrap();
        assert!(page.uploads.is_empty() && !page.is_truncated);
    }
}
