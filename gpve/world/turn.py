"""One turn of an engine over its ports: the loop that both worlds run."""

from gpve.tasks.worker import Worker
from gpve.world.nodes import Nodes
from gpve.world.placer import Placer
from gpve.world.store import Store, StoreDown

CHANGES_AT_ONCE = 1000
FORGET_AT_ONCE = 50
"""Tasks that one sweep removes at most: forgetting must not keep the living waiting."""


def turn(worker: Worker, store: Store, nodes: Nodes, placer: Placer, now: float) -> None:
    """Do all that is due at ``now`` (monotonic, seconds). Raises `StoreDown`; then the worker must be reborn."""
    if worker.sweep_due(now):
        worker.cancelled(store.cancelled(worker.incarnation))
        worker.answered(store.answered(worker.incarnation))
        old = store.closed_before(store.now() - worker.rules.keep_s, FORGET_AT_ONCE)
        worker.forget(old, store.compacted_changes(CHANGES_AT_ONCE))
        worker.watch(store.sessions(), now)
        worker.carry(store.undelivered(nodes.names(), worker.incarnation))
    if worker.wants_work and worker.room > 0:
        worker.claim(store.claimable(worker.incarnation, worker.flows.versions, worker.room))
    jobs = worker.jobs(now)
    if jobs:
        try:
            results = store.transact([job.work for job in jobs])
        except StoreDown as error:
            # Who waits for an answer is told; the worker itself is about to be reborn.
            for job in jobs:
                job.then(error)
            raise
        for job, result in zip(jobs, results, strict=True):
            job.then(result)
    outgoing, worker.outgoing = worker.outgoing, []
    for operation in outgoing:
        if nodes.holds(operation.node):
            nodes.send(operation, worker.answer)
        else:
            worker.unsent(operation)
    questions, worker.questions = worker.questions, []
    if questions:
        # Stable: of equal rank, who has waited longest is asked for first.
        questions.sort(key=lambda question: -question.place.spec.get("priority", 0))
        answers = placer.decide(questions, store.nodes)
        for question, decision in zip(questions, answers, strict=True):
            worker.decided(question, decision)
