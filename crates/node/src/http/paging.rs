//! Lists in pages: each goes on after the last item of the one before, so that
//! what comes and goes meanwhile neither repeats nor hides anything.

use inn_api::Code;
use inn_units::VmId;
use jiff::Timestamp;

use super::problem::Failed;

/// The largest page.
pub(super) const LARGEST: usize = 1_000;

/// A list's parameters, as the query has them.
#[derive(Debug)]
pub(super) struct Paging {
    limit: usize,
}

impl Paging {
    /// Without a limit a list is whole.
    pub(super) fn new(limit: Option<usize>) -> Result<Self, Failed> {
        match limit {
            None => Ok(Self { limit: usize::MAX }),
            Some(limit @ 1..=LARGEST) => Ok(Self { limit }),
            Some(limit) => {
                Err(Failed::invalid(format!("limit {limit} is not between 1 and {LARGEST}")))
            }
        }
    }

    /// As many of `items` as a page has, and the cursor to the next one if
    /// there is one.
    pub(super) fn page<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        cursor: impl Fn(&T) -> String,
    ) -> (Vec<T>, Option<String>) {
        let mut items = items.into_iter();
        let page: Vec<T> = items.by_ref().take(self.limit).collect();
        let next = match items.next() {
            Some(_) => page.last().map(cursor),
            None => None,
        };
        (page, next)
    }
}

/// Where a VM stands in the order of VMs. It holds for one that is gone, too.
pub(super) type VmPlace = (Timestamp, VmId);

pub(super) fn vm_cursor((created, id): VmPlace) -> String {
    format!("{}-{id}", created.as_nanosecond())
}

pub(super) fn vm_place(cursor: &str) -> Result<VmPlace, Failed> {
    let place = cursor.rsplit_once('-').and_then(|(created, id)| {
        let created = Timestamp::from_nanosecond(created.parse().ok()?).ok()?;
        Some((created, id.parse().ok()?))
    });
    place.ok_or_else(|| {
        let shown: String = cursor.chars().take(80).collect();
        let detail = format!("after `{shown}` is not what a list's `next` said");
        Failed::new(Code::InvalidRequest, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_pages_are_whole() {
        let place = (
            Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap(),
            VmId::from_bytes([7; 5]),
        );
        assert_eq!(vm_place(&vm_cursor(place)).unwrap(), place);
        for wrong in ["", "-", "x-0707070707", "1-x", "99999999999999999999999999999-0707070707"] {
            assert!(vm_place(wrong).is_err(), "{wrong}");
        }
        let pages = Paging::new(Some(2)).unwrap();
        assert_eq!(pages.page(1..=3, i32::to_string), (vec![1, 2], Some("2".to_owned())));
        assert_eq!(pages.page(1..=2, i32::to_string), (vec![1, 2], None));
        assert_eq!(Paging::new(None).unwrap().page(1..=3, i32::to_string).0.len(), 3);
        assert!(Paging::new(Some(0)).is_err() && Paging::new(Some(1_001)).is_err());
    }
}
