import os, sys, time
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
t = time.time()
import torch
for name in ("transformers", "peft"):
    try:
        __import__(name)
    except ImportError as e:
        print("no", name)
try:
    import transformers.models.llama.modeling_llama
except Exception as e: print(e)
print("import", time.time() - t, torch.__version__, "available", torch.cuda.is_available(), "initialized", torch.cuda.is_initialized(), "threads", open('/proc/self/status').read().split('Threads:')[1].split()[0])
for visible in ("0", "0"):
    pid = os.fork()
    if pid == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
        t = time.time()
        x = torch.randn(2048, 2048, device="cuda")
        y = (x @ x).sum().item()
        print("child", torch.cuda.device_count(), time.time() - t, y == y)
        import os as o; sys.stdout.flush(); o._exit(0)
    print("exit", os.waitpid(pid, 0)[1])
