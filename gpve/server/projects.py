"""What a project may have, and how its guests are placed: quota and policy."""

from typing import Any

from gpve.scheduler.policy import NAMES
from gpve.server.access import Access, check_name
from gpve.server.policies import CLUSTER, Policies
from gpve.tasks.errors import BadBody
from gpve.tasks.flows.guests import no_use
from gpve.tasks.ledger import Row, Tx


class Projects:
    """Quotas and policies."""

    def __init__(self, access: Access, policies: Policies) -> None:
        self._access, self._policies = access, policies

    async def quota(self, project: str) -> Row:
        """What a project uses, and its limits."""
        rows = await self._access.read(self._access.store.rows, "quota", project=project)
        return rows[0] if rows else no_use(project)

    async def limit(self, project: str, limits: dict[str, int | None]) -> Row:
        """Give a project limits: of guests, cpu_milli, memory_mib; None is no limit. What it has it keeps."""
        check_name("quota", "project", project)

        def run(tx: Tx) -> Row:
            row = {**(tx.get("quota", project) or no_use(project)), **limits}
            tx.put("quota", row)
            return row

        return await self._access.change(run)

    async def policies(self) -> dict[str, Any]:
        """The cluster's policy, those of projects that have their own, and the names that may be chosen."""
        of = {row["project"]: row["policy"] for row in await self._access.read(self._access.store.rows, "placement")}
        cluster = of.pop(CLUSTER, self._policies.default.name)
        return {"cluster": cluster, "projects": of, "known": list(NAMES)}

    async def choose(self, project: str, policy: str | None) -> dict[str, Any]:
        """Have a policy decide for a project (`CLUSTER`: for all that have none); None: what decides without a choice.

        Guests that run stay where they are. Other servers follow within seconds.
        """
        if project != CLUSTER:
            check_name("policy", "project", project)
        if policy is not None and policy not in NAMES:
            raise BadBody("policy", "policy", f"no {policy!r}; there are {', '.join(NAMES)}")

        def run(tx: Tx) -> None:
            if policy is None:
                tx.delete("placement", project)
            else:
                tx.put("placement", {"project": project, "policy": policy})

        await self._access.change(run)
        await self.refresh()
        return await self.policies()

    async def refresh(self) -> None:
        """Use the policies that the store names."""
        await self._policies.take_over(await self._access.read(self._access.store.rows, "placement"))
