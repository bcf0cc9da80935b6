"""History of every detection, and who was where: appearances, frames, zone visits."""
