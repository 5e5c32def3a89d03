import { executeChild, proxyActivities, workflowInfo } from '@temporalio/workflow';
import { currentTenant } from './tenant-workflow.js';

const { seen_by_typescript } = proxyActivities({ startToCloseTimeout: '20s' });

/** Which tenant is seen here, in an activity here, and in a child on the Python worker. */
export async function SeenByTypescript(pythonQueue) {
  const { workflowId, taskQueue } = workflowInfo();
  const activity = await seen_by_typescript();
  const child = await executeChild('SeenByPython', {
    workflowId: `${workflowId}-child`,
    taskQueue: pythonQueue,
    args: [taskQueue],
  });
  return { workflow: currentTenant(), activity, child };
}
