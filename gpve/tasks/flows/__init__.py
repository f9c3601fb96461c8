"""The flows of GPVE, one file each: what happens, what undoes it and what it waits for, on one screen."""

from gpve.tasks.flow import Flows
from gpve.tasks.flows.agent_checkpoint import agent_checkpoint
from gpve.tasks.flows.agent_create import agent_create, agent_create_first
from gpve.tasks.flows.agent_delete import agent_delete
from gpve.tasks.flows.agent_pause import agent_pause
from gpve.tasks.flows.agent_restart import agent_restart
from gpve.tasks.flows.agent_restore import agent_restore
from gpve.tasks.flows.agent_resume import agent_resume
from gpve.tasks.flows.agent_start import agent_start
from gpve.tasks.flows.agent_stop import agent_stop
from gpve.tasks.flows.network_attach import network_attach
from gpve.tasks.flows.network_create import network_create
from gpve.tasks.flows.network_delete import network_delete
from gpve.tasks.flows.network_detach import network_detach
from gpve.tasks.flows.node_close import node_close
from gpve.tasks.flows.node_drain import node_drain
from gpve.tasks.flows.node_open import node_open
from gpve.tasks.flows.node_rejoin import node_rejoin
from gpve.tasks.flows.node_survey import node_survey
from gpve.tasks.flows.recover import agent_recover, vcluster_recover, vm_recover
from gpve.tasks.flows.vcluster_clone import vcluster_clone
from gpve.tasks.flows.vcluster_create import vcluster_create, vcluster_create_first
from gpve.tasks.flows.vcluster_delete import vcluster_delete
from gpve.tasks.flows.vcluster_pause import vcluster_pause
from gpve.tasks.flows.vcluster_resize import vcluster_resize
from gpve.tasks.flows.vcluster_restore import vcluster_restore
from gpve.tasks.flows.vcluster_resume import vcluster_resume
from gpve.tasks.flows.vcluster_sleep import vcluster_sleep
from gpve.tasks.flows.vcluster_snapshot import vcluster_snapshot
from gpve.tasks.flows.vcluster_start import vcluster_start
from gpve.tasks.flows.vcluster_stop import vcluster_stop
from gpve.tasks.flows.vcluster_upgrade import vcluster_upgrade
from gpve.tasks.flows.vcluster_wake import vcluster_wake
from gpve.tasks.flows.vm_clone import vm_clone
from gpve.tasks.flows.vm_create import vm_create, vm_create_first
from gpve.tasks.flows.vm_delete import vm_delete
from gpve.tasks.flows.vm_migrate import vm_migrate
from gpve.tasks.flows.vm_pause import vm_pause
from gpve.tasks.flows.vm_reboot import vm_reboot
from gpve.tasks.flows.vm_resize import vm_resize
from gpve.tasks.flows.vm_resume import vm_resume
from gpve.tasks.flows.vm_rollback import vm_rollback
from gpve.tasks.flows.vm_shutdown import vm_shutdown
from gpve.tasks.flows.vm_snapshot import vm_snapshot
from gpve.tasks.flows.vm_start import vm_start
from gpve.tasks.flows.vm_stop import vm_stop
from gpve.tasks.flows.volume_attach import volume_attach
from gpve.tasks.flows.volume_create import volume_create
from gpve.tasks.flows.volume_delete import volume_delete
from gpve.tasks.flows.volume_detach import volume_detach

FLOWS = Flows(
    [
        agent_checkpoint,
        agent_create,
        agent_create_first,
        agent_delete,
        agent_pause,
        agent_recover,
        agent_restart,
        agent_restore,
        agent_resume,
        agent_start,
        agent_stop,
        network_attach,
        network_create,
        network_delete,
        network_detach,
        node_close,
        node_drain,
        node_open,
        node_rejoin,
        node_survey,
        vcluster_clone,
        vcluster_create,
        vcluster_create_first,
        vcluster_delete,
        vcluster_pause,
        vcluster_recover,
        vcluster_restore,
        vcluster_resume,
        vcluster_sleep,
        vcluster_snapshot,
        vcluster_start,
        vcluster_stop,
        vcluster_resize,
        vcluster_upgrade,
        vcluster_wake,
        vm_clone,
        vm_create,
        vm_create_first,
        vm_delete,
        vm_migrate,
        vm_pause,
        vm_reboot,
        vm_recover,
        vm_resize,
        vm_resume,
        vm_rollback,
        vm_shutdown,
        vm_snapshot,
        vm_start,
        vm_stop,
        volume_attach,
        volume_create,
        volume_delete,
        volume_detach,
    ]
)
"""All flows, in all the versions that tasks may have."""
