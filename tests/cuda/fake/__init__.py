"""Stand-ins for CUDA and NCCL on a CPU build of torch.

device_guard.so()             a CUDA device that only has tensors without contents
driver.answered()             what torch.cuda says without a driver, for the peers
streams.Gpu                   a rank's streams and events, and which work is ordered
memory.DeviceMemory           every access to a storage, and the accesses that nothing orders
courier.Courier               copies of real numbers at the last allowed moment
nccl.NcclRank                 the part of torch.distributed that `sppo.comm` uses, recorded
communication.findings_of     NCCL's order, deadlocks, SM budget, memory of communicators
"""
