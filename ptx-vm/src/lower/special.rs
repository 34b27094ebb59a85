//! Special registers, and their names.

/// Special registers that change while a kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Cycles32,
    Cycles64,
    Nanoseconds,
    NanosecondsLow,
}

/// Special registers that are constant for a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMask(LaneMask),
    DynamicShared,
    TotalShared,
    ClusterId(u8),
    NClusterId(u8),
    ClusterCtaId(u8),
    ClusterNCtaId(u8),
    ClusterCtaRank,
    ClusterNCtaRank,
    Zero,
}

/// The lane masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LaneMask {
    Eq,
    Le,
    Lt,
    Ge,
    Gt,
}

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
