//! Basic blocks and immediate post-dominators: where lanes that part meet again.

use super::ops::{AT_RETURN, Inst, NOWHERE, Op};

/// The meeting instruction of every instruction at which lanes may part, else [`NOWHERE`].
pub(super) fn meeting_points(insts: &[Inst]) -> Vec<u32> {
    let n = insts.len();
    let mut leader = vec![false; n + 1];
    leader[0] = true;
    for (i, inst) in insts.iter().enumerate() {
        let mut mark = |t: u32| {
            if let Some(l) = leader.get_mut(t as usize) {
                *l = true;
            }
        };
        match &inst.op {
            Op::Bra { target, .. } => mark(*target),
            Op::BrxIdx { targets, .. } => targets.iter().for_each(|t| mark(*t)),
            Op::Ret | Op::Exit | Op::Trap => {}
            _ => continue,
        }
        leader[i + 1] = true;
    }
    let starts: Vec<usize> = (0..n).filter(|&i| leader[i]).collect();
    let mut block_of = vec![0usize; n];
    for (b, &s) in starts.iter().enumerate() {
        let end = starts.get(b + 1).copied().unwrap_or(n);
        block_of[s..end].fill(b);
    }
    // One node past the blocks stands for the way out.
    let exit = starts.len();
    let successors: Vec<Vec<usize>> = (0..exit)
        .map(|b| {
            let last = starts.get(b + 1).copied().unwrap_or(n) - 1;
            let inst = &insts[last];
            let next = if last + 1 < n { block_of[last + 1] } else { exit };
            let mut to = match &inst.op {
                Op::Bra { target, .. } => vec![block_of[*target as usize]],
                Op::BrxIdx { targets, .. } => {
                    targets.iter().map(|t| block_of[*t as usize]).collect()
                }
                Op::Ret | Op::Exit | Op::Trap => vec![exit],
                _ => return vec![next],
            };
            if inst.guard.is_some() {
                to.push(next);
            }
            to
        })
        .collect();
    let ipdom = post_dominators(&successors, exit);
    let mut out = vec![NOWHERE; n];
    for (b, p) in ipdom.into_iter().enumerate() {
        let last = starts.get(b + 1).copied().unwrap_or(n) - 1;
        out[last] = match p {
            None => NOWHERE,
            Some(p) if p == exit => AT_RETURN,
            Some(p) => starts[p] as u32,
        };
    }
    out
}

/// Immediate post-dominators by iteration to a fixed point over a reverse post-order
/// (Cooper, Harvey and Kennedy 2001). Blocks that cannot reach the exit have none.
fn post_dominators(successors: &[Vec<usize>], exit: usize) -> Vec<Option<usize>> {
    let n = successors.len() + 1;
    let mut predecessors = vec![Vec::new(); n];
    for (b, to) in successors.iter().enumerate() {
        to.iter().for_each(|&t| predecessors[t].push(b));
    }
    // Post-order of the reversed graph from the exit, without recursion.
    let mut order = Vec::with_capacity(n);
    let mut number = vec![usize::MAX; n];
    let mut seen = vec![false; n];
    let mut stack = vec![(exit, 0usize)];
    seen[exit] = true;
    while let Some((node, at)) = stack.pop() {
        if let Some(&p) = predecessors[node].get(at) {
            stack.push((node, at + 1));
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            number[node] = order.len();
            order.push(node);
        }
    }
    let mut idom: Vec<Option<usize>> = vec![None; n];
    idom[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for &node in order.iter().rev().filter(|&&x| x != exit) {
            let mut new: Option<usize> = None;
            for &s in &successors[node] {
                if idom[s].is_none() {
                    continue;
                }
                new = Some(match new {
                    None => s,
                    Some(mut a) => {
                        let mut b = s;
                        while a != b {
                            while number[a] < number[b] {
                                a = idom[a].unwrap_or(exit);
                            }
                            while number[b] < number[a] {
                                b = idom[b].unwrap_or(exit);
                            }
                        }
                        a
                    }
                });
            }
            if new.is_some() && idom[node] != new {
                idom[node] = new;
                changed = true;
            }
        }
    }
    idom.truncate(n - 1);
    idom
}

#[cfg(test)]
mod tests {
    use super::post_dominators;

    #[test]
    fn a_diamond_meets_at_its_foot() {
        // 0 → 1, 2; 1 → 3; 2 → 3; 3 → exit(4)
        let p = post_dominators(&[vec![1, 2], vec![3], vec![3], vec![4]], 4);
        assert_eq!(p, [Some(3), Some(3), Some(3), Some(4)]);
    }

    #[test]
    fn a_loop_meets_behind_it() {
        // 0 → 1; 1 → 1, 2; 2 → exit(3)
        let p = post_dominators(&[vec![1], vec![1, 2], vec![3]], 3);
        assert_eq!(p, [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn an_early_exit_meets_at_the_end_only() {
        // 0 → 1, 3; 1 → 2; 2 → exit; 3 → exit
        let p = post_dominators(&[vec![1, 3], vec![2], vec![4], vec![4]], 4);
        assert_eq!(p[0], Some(4));
    }

    #[test]
    fn an_endless_loop_has_no_meeting_point() {
        let p = post_dominators(&[vec![1, 2], vec![1], vec![3]], 3);
        assert_eq!(p, [Some(2), None, Some(3)]);
    }
}
