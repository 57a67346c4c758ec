use inn_api as api;

use crate::go_down::WentDown;

pub(in crate::http) fn guest_down(went: &WentDown) -> api::GuestDown {
    let view = went.vm.view();
    let end = view.last_end.as_ref().filter(|_| went.ran);
    api::GuestDown {
        id: went.vm.id(),
        name: went.vm.spec().name.clone(),
        ran: went.ran,
        down: went.down,
        how: end.map(|end| super::end_kind(end.how)),
        reason: end.and_then(|end| end.reason.clone()),
    }
}
