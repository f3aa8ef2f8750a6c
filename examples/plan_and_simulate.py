"""Plan gpt-7b at 1M tokens on 32 A100 and simulate its step. No GPU and no torch needed."""

from sppo import (
    MODELS,
    Cluster,
    SolverOptions,
    Workload,
    build_schedule,
    check_schedule,
    load_hardware,
    plan_card,
    simulate_plan,
    solve,
)

hardware = load_hardware("a100-80g")
workload = Workload(
    name="gpt-7b-1m",
    model=MODELS["gpt-7b"],
    cluster=Cluster(hardware="a100-80g", device="cuda", nodes=4, ranks_per_node=8),
    sequence_tokens=2**20,
    dtype="bfloat16",
    device_memory_bytes=hardware.usable_device_bytes,
    host_memory_bytes=hardware.host_memory_bytes_per_rank,
)

plan = solve(workload, hardware, SolverOptions(pipeline_parallel=4, virtual_stages=1))
print(plan_card(plan, hardware, workload))

schedule = build_schedule(plan)
check_schedule(schedule)
print("\nStage 0 begins with", *(str(step) for step in schedule.stages[0][:8]))

step = simulate_plan(plan, hardware)
print(f"Simulated: {step.makespan / 1e9:.1f} s a step, idle {step.bubble_share:.1%}")
