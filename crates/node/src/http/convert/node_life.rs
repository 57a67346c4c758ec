use inn_api as api;
use inn_units::Bytes;

use crate::go_down::WentDown;
use crate::templates::{PoolTold, TemplateStanding, TemplateTold};

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

pub(in crate::http) fn template(told: TemplateTold) -> api::Template {
    api::Template {
        image: told.image,
        vcpus: told.vcpus.get(),
        memory_bytes: told.memory.get(),
        state: match told.state {
            TemplateStanding::Wanted => api::TemplateState::Wanted,
            TemplateStanding::Making => api::TemplateState::Making,
            TemplateStanding::Ready => api::TemplateState::Ready,
            TemplateStanding::Failed => api::TemplateState::Failed,
        },
        why: told.why,
        id: told.id,
        made_at: told.made_at,
        last_used_at: told.last_used,
        disk_bytes: told.stored.get(),
        held_bytes: told.held.get(),
        waiting: told.waiting,
        clone_bytes: told.clone_cost.map(Bytes::get),
        hits: told.hits,
        misses: told.misses,
    }
}

pub(in crate::http) fn pool(told: &PoolTold) -> api::Pool {
    api::Pool {
        off: told.off.map(str::to_owned),
        memory_limit_bytes: told.limits.memory.get(),
        memory_bytes: told.used.get(),
        waiting: told.waiting,
        each_at_most: u64::try_from(told.limits.each).unwrap_or(u64::MAX),
    }
}
