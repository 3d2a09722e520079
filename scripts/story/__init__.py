"""The demo's story: a cloud, a broker, three devices and their applications, all real, from training to recovery."""
