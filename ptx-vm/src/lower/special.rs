//! Special registers by name.

use super::ops::{Clock, LaneMask, Special};

fn axis(part: Option<&str>) -> Option<u8> {
    match part {
        Some("x") => Some(0),
        Some("y") => Some(1),
        Some("z") => Some(2),
        _ => None,
    }
}

/// A register that is constant for a thread, and its width.
pub(super) fn constant(name: &str, part: Option<&str>) -> Option<(Special, u32)> {
    let special = match name {
        "%tid" => Special::Tid(axis(part)?),
        "%ntid" => Special::Ntid(axis(part)?),
        "%ctaid" => Special::Ctaid(axis(part)?),
        "%nctaid" => Special::Nctaid(axis(part)?),
        "%clusterid" => Special::ClusterId(axis(part)?),
        "%nclusterid" => Special::NClusterId(axis(part)?),
        "%cluster_ctaid" => Special::ClusterCtaId(axis(part)?),
        "%cluster_nctaid" => Special::ClusterNCtaId(axis(part)?),
        _ if part.is_some() => return None,
        "%cluster_ctarank" => Special::ClusterCtaRank,
        "%cluster_nctarank" => Special::ClusterNCtaRank,
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%gridid" => return Some((Special::GridId, 64)),
        "%lanemask_eq" => Special::LaneMask(LaneMask::Eq),
        "%lanemask_le" => Special::LaneMask(LaneMask::Le),
        "%lanemask_lt" => Special::LaneMask(LaneMask::Lt),
        "%lanemask_ge" => Special::LaneMask(LaneMask::Ge),
        "%lanemask_gt" => Special::LaneMask(LaneMask::Gt),
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%reserved_smem_offset_begin" | "%reserved_smem_offset_end" => Special::Zero,
        _ => return None,
    };
    Some((special, 32))
}

/// A register that changes while a kernel runs.
pub(super) fn clock(name: &str) -> Option<Clock> {
    Some(match name {
        "%clock" => Clock::Cycles32,
        "%clock64" => Clock::Cycles64,
        "%globaltimer" => Clock::Nanoseconds,
        "%globaltimer_lo" => Clock::NanosecondsLow,
        _ => return None,
    })
}
