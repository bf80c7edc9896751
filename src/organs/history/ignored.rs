//! Which new files a .gitignore of the workspace keeps out.
//! Owns its rules.
