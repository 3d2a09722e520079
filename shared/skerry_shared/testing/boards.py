"""Trees of /proc, /sys and /etc as boards have them: a few files each, from the boards' public documentation.

Nobody recorded them on the board itself: they test that what is documented is read rightly.
"""

from pathlib import Path

Files = dict[str, str]

A76 = "asimd asimddp asimdhp aes crc32"
A53 = "asimd crc32"


def _arm(model: str, compatible: tuple[str, ...], cores: int, features: str, memory_kb: int, disk: str) -> Files:
    cpu = "".join(f"processor\t: {i}\nFeatures\t: {features}\nCPU implementer\t: 0x41\n\n" for i in range(cores))
    return {
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": "".join(f"{name}\0" for name in compatible),
        "proc/cpuinfo": cpu,
        "proc/meminfo": f"MemTotal:       {memory_kb} kB\nMemFree:  1 kB\n",
        "proc/mounts": f"{disk} / ext4 rw,noatime 0 0\nproc /proc proc rw 0 0\n",
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    }


def _zones(**celsius: float) -> Files:
    files: Files = {}
    for i, (name, value) in enumerate(celsius.items()):
        zone = f"sys/class/thermal/thermal_zone{i}"
        files |= {f"{zone}/type": name.replace("_", "-"), f"{zone}/temp": f"{round(value * 1000)}\n"}
    return files


def _net(name: str, wireless: bool = False) -> Files:
    folder = f"sys/class/net/{name}"
    return {f"{folder}/operstate": "up\n"} | ({f"{folder}/wireless/status": "0\n"} if wireless else {})


def _pci(vendor: str, device: str) -> Files:
    folder = "sys/bus/pci/devices/0001:01:00.0"
    return {f"{folder}/vendor": f"0x{vendor}\n", f"{folder}/device": f"0x{device}\n"}


def _jetson(module: str, chip: str, model: str, cores: int, memory_kb: int, mode: tuple[int, str]) -> Files:
    tree = _arm(
        model, (f"nvidia,p3768-0000+{module}", f"nvidia,{module}", chip), cores, A76, memory_kb, "/dev/nvme0n1p1"
    )
    tree |= _zones(cpu_thermal=52.5, gpu_thermal=50.0, tj_thermal=53.25) | _net("enP8p1s0")
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan 8 2025\n"
    modes = f"< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID={mode[0]} NAME={mode[1]} >\n"
    return tree | {
        "etc/nv_tegra_release": release,
        "etc/nvpmodel.conf": modes,
        "var/lib/nvpmodel/status": f"pmode:{mode[0]:04}",
    }


_PI_5 = (
    _arm(
        "Raspberry Pi 5 Model B Rev 1.0", ("raspberrypi,5-model-b", "brcm,bcm2712"), 4, A76, 8_245_760, "/dev/mmcblk0p2"
    )
    | _zones(cpu_thermal=48.0)
    | _net("eth0")
    | {
        "sys/block/mmcblk0/device/type": "SD\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "0\n",
    }
)

BOARDS: dict[str, Files] = {
    "raspberry-pi-5": _PI_5,
    "raspberry-pi-5-hailo-8": _PI_5 | _pci("1e60", "2864"),
    "raspberry-pi-zero-2-w": _arm(
        "Raspberry Pi Zero 2 W", ("raspberrypi,model-zero-2-w", "brcm,bcm2837"), 4, A53, 437_248, "/dev/mmcblk0p2"
    ) | _zones(cpu_thermal=45.0) | _net("wlan0", wireless=True) | {"sys/block/mmcblk0/device/type": "SD\n"},
    "coral-dev-board": _arm(
        "Freescale i.MX8MQ Phanbell", ("google,imx8mq-phanbell", "fsl,imx8mq"), 4, A53, 1_012_000, "/dev/mmcblk0p3"
    ) | _zones(cpu_thermal=60.0) | _net("eth0") | _pci("1ac1", "089a") | {"sys/block/mmcblk0/device/type": "MMC\n"},
    "jetson-orin-nano": _jetson(
        "p3767-0005", "nvidia,tegra234", "NVIDIA Jetson Orin Nano Developer Kit", 6, 7_800_000, (2, "MAXN_SUPER")
    ),
    "jetson-orin-nx": _jetson("p3767-0000", "nvidia,tegra234", "NVIDIA Jetson Orin NX", 8, 15_900_000, (3, "25W")),
    "jetson-agx-orin": _jetson("p3701-0005", "nvidia,tegra234", "Jetson AGX Orin", 12, 64_300_000, (1, "MAXN")),
    "jetson-thor": _jetson("p3834-0008", "nvidia,tegra264", "NVIDIA Jetson AGX Thor", 14, 128_000_000, (1, "120W")),
    "generic-arm64": _arm("Acme Gateway 3", ("acme,gateway-3", "rockchip,rk3588"), 8, A76, 4_000_000, "/dev/sda1"),
    "generic-x86-64": {
        "proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu avx2\n",
        "proc/meminfo": "MemTotal:       16000000 kB\n",
        "proc/mounts": "/dev/nvme0n1p2 / ext4 rw 0 0\n",
        "sys/class/dmi/id/product_name": "Box PC 1000\n",
    } | _net("wwan0"),
}  # fmt: skip


def lay_out(files: Files, root: Path) -> Path:
    """Write the files below ``root``."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root
