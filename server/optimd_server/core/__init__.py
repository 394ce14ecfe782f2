"""The state machine of a job, without I/O: handle(event, now_s) -> effects.

No clock, threads, randomness or grpc. Time and random ids come in with events; what must happen outside goes out as
effects, and its result comes back as another event. An event is refused (Refused is raised, nothing has changed) or
taken; after every event taken the rounds advance as far as they can.

The rules, all of them; core.job has those of members and pushes, core.sync, core.asynchronous and core.ssp their own,
core.control those of what changes a job from outside.

A job       creating ─UploadCompleted─► ready ─t = steps_max─► finished (pushes DISCARDED(FINISHED), pulls go on)
            finished ─UpdateRequested(steps_max above t)─► ready
            ready ─UpdateRequested(paused)─► paused ─UpdateRequested(not paused)─► ready
            ready ─RangeTestRequested─► range test ─its end, PutBack─► ready, under another lineage
            Updates are made only while ready or sweeping; what was committed waits. HaltRequested, by a server that
            ends, holds them for good. core.range_test has the phases.
A change    of schedules or pause holds from a step on whose update is not on its way. Of two at one step the later
            one holds. The same request id again gets the first answer. During a range test none is made, none is taken.
An epoch    ─JoinRequested─► live ─┬─LeaveRequested──────────────► left, failed calls refused NOT_JOINED
                                   ├─Ticked, lease over──────────► expired      LEASE_EXPIRED: join again
                                   ├─JoinRequested, same worker──► superseded   EPOCH_SUPERSEDED: fatal
                                   └─rejections_max running──────► set aside    WORKER_SET_ASIDE: fatal
            Epochs come from one counter that never falls. A call of a live epoch renews its lease; none revives one.
            A tick that comes late gives the time back to leases, uploader and round: a stalled server expires nobody.
A seq       next ─PushOffered─► next, or settled by its header alone
                 ─PushCommitted─► pending ─its round closes─► settled ─4 later ones─► forgotten (never next again)
            Settled: APPLIED, DISCARDED or REJECTED; resent, it gets the same. Another seq while one is pending is
            refused PUSH_IN_FLIGHT, a later one SEQ_GAP, a forgotten one SEQ_FORGOTTEN. Of a dead epoch the last outcome
            is kept; dead epochs are forgotten by their number, oldest first.

| a push that is next, and | Sync | Async | Ssp |
|---|---|---|---|
| the job is finished | FINISHED | FINISHED | FINISHED |
| its base lineage is another | LINEAGE_CHANGED | LINEAGE_CHANGED | LINEAGE_CHANGED |
| its base step > t | REJECTED, with its round | REJECTED now | REJECTED now |
| its base step < t | LATE | STALE above staleness_max, else as good | as good |
| it is not finite | REJECTED, with its round | REJECTED now | REJECTED now |
| it is good, of a member that has not spoken | its word for the round | in the queue | in the queue |
| it is good, of anybody else | held until the next round opens | in the queue | in the queue |

A round under Sync
    opens     with `workers` live the first time, `workers_min` later: its members are who is live then. What was held
              of them, computed at t, is their word; anything else held is LATE.
    counts    on one worker less for each that has left, until it or another in its place joins: of `workers`, and of
              quorum and a workers_min that is not given no more than that. A given workers_min is the least of all.
              Whoever joins once all have left begins anew: the next round opens as the first did.
    closes    with workers_min live, once nobody is awaited (each member spoke or is gone), or quorum words are there;
              with round_timeout_s only once it has been open so long (without quorum, workers_min words are then
              enough, without both one).
    a member  that goes is awaited no more; what it committed to the round counts, what was held of it is NOT_A_MEMBER.
A round under Async and Ssp is the next push of the queue, whether its worker is still there or not.
Any round
    is void   if nothing is to be applied or the sum is too large: t stays, culprits are TOO_LARGE, others ROUND_VOID;
    else      Prepare for each sum that is needed, Apply, Applied: t + 1, and outcomes for all of it.
    is told   at once; under Ssp to each w once clock(w) - min over the live <= staleness, or its epoch or the job ends.
Nobody who is to be set aside becomes a member of the next round.

clock(w) counts the outcomes of w; one that joins starts at the slowest one's clock. lr(t) and all scheduled
hyper-parameters are read once, as the round closes.
"""

from optimd_server.core.job import JobMachine

__all__ = ["JobMachine"]
