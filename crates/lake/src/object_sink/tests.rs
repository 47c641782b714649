//! The end of a chain, however long it is.

use std::sync::Arc;

use aap_types::StreamName;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::chain::Chains;

const UID: &str = "89abcdef0123456789abcdef01234567";

async fn check(numbers: impl IntoIterator<Item = u64>, is_ordered: bool, expected: Option<u64>) {
    let objects = Arc::new(InMemory::new());
    let put = |name: String| {
        let objects = objects.clone();
        async move { objects.put(&Path::from(name), "x".into()).await.unwrap() }
    };
    // Those of sinks whose names come before and after, of another stream, and what is no sink's.
    for other in [
        "p/s/00000000-000000000007.parquet",
        "p/s/ffffffff-000000000007.parquet",
        "p/t/89abcdef-000000900000.parquet",
    ] {
        put(other.to_owned()).await;
    }
    put("p/s/notes.txt".to_owned()).await;
    let mut count = 0;
    for number in numbers {
        put(format!("p/s/89abcdef-{number:012}.parquet")).await;
        count += 1;
    }
    let objects: Arc<dyn ObjectStore> = objects;
    let prefix = Path::from("p");
    let chains = Chains { objects, prefix, uid: UID.to_owned(), is_ordered, is_conditional: true };
    let stream: StreamName = "s".parse().unwrap();
    let found = chains.last_found(&stream).await.unwrap();
    assert_eq!(found.map(|(number, _)| number), expected, "of {count} objects");
}

#[tokio::test]
async fn the_last_object_is_found_among_any_number_of_them() {
    for is_ordered in [true, false] {
        check([], is_ordered, None).await;
        for last in [1, 2, 999, 1000, 1001, 1999, 2000, 2001, 2999, 4000, 7013, 12_345] {
            check(1..=last, is_ordered, Some(last)).await;
            check(last..=last, is_ordered, Some(last)).await;
            check(last..last + 1500, is_ordered, Some(last + 1499)).await;
        }
        check(999_999_990_000..=999_999_999_999, is_ordered, Some(999_999_999_999)).await;
    }
}
